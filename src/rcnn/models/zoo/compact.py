"""Small detectors to train from scratch in minutes."""

from __future__ import annotations

from dataclasses import replace

from rcnn.models.config import (
    BOX_SAMPLING,
    RPN_SAMPLING,
    AnchorConfig,
    BoxHeadConfig,
    CompactConfig,
    DetectorConfig,
    FPNConfig,
    InputConfig,
    MaskHeadConfig,
    PoolerConfig,
    ProposalConfig,
    RPNConfig,
)
from rcnn.models.zoo.naming import Models, named


def mask_rcnn_compact() -> DetectorConfig:
    """A small Mask R-CNN to train from scratch in minutes on a CPU: what `rcnn demo` trains."""
    return DetectorConfig(
        name="mask_rcnn_compact",
        num_classes=6,
        input=InputConfig(min_size=128, max_size=256),
        backbone=CompactConfig(),
        fpn=FPNConfig(channels=48, norm="bn"),
        rpn=RPNConfig(
            anchors=AnchorConfig(sizes=((16.0,), (26.0,), (42.0,), (66.0,), (104.0,))),
            sampling=replace(RPN_SAMPLING, batch_size=128),
            proposals=ProposalConfig(pre_nms_train=200, pre_nms=200, post_nms_train=150, post_nms=100),
        ),
        box=BoxHeadConfig(fc_width=256, sampling=replace(BOX_SAMPLING, batch_size=36, positive_fraction=0.34)),
        mask=MaskHeadConfig(convs=2, width=48, pooler=PoolerConfig(size=10)),
    )


def faster_rcnn_compact() -> DetectorConfig:
    """`mask_rcnn_compact` without masks."""
    return replace(mask_rcnn_compact(), name="faster_rcnn_compact", mask=None)


MODELS: Models = named(faster_rcnn_compact, mask_rcnn_compact)
