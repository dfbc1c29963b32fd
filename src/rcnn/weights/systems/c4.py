"""Mask R-CNN on the fourth stage of a ResNet (C4), as in the systems that are derived from py-faster-rcnn."""

from __future__ import annotations

from collections.abc import Sequence

from rcnn.models import DetectorConfig
from rcnn.models import config as cfg
from rcnn.weights.systems.resnets import Depth

RATIOS = 3  # number of anchor ratios
# number of anchor scales -> the scales, in units of 16 pixels: those for COCO and for VOC
SCALES = {5: (2.0, 4.0, 8.0, 16.0, 32.0), 4: (4.0, 8.0, 16.0, 32.0)}
UNLIMITED_SCALE = 100.0  # max_log_scale for systems that do not limit decoded widths and heights


def mask_rcnn_c4(
    depth: Depth,
    blocks: tuple[int, ...],
    *,
    classes: int,
    width: int,
    anchors: int,
    scales: Sequence[float] | None,
    pooler: cfg.PoolerConfig,
) -> DetectorConfig:
    """The settings that these systems have in common; `width` is the width of the RPN, `anchors` the number per cell.

    Without `scales`, those of COCO or VOC are used, depending on `anchors`.
    """
    scales = scales or SCALES.get(anchors // RATIOS, SCALES[5])
    return DetectorConfig(
        name=f"mask_rcnn_r{depth}_c4",
        num_classes=classes,
        input=cfg.InputConfig(pixel_std=(1.0, 1.0, 1.0), divisor=0),
        backbone=cfg.ResNetConfig(depth=depth, blocks=blocks, stages=(2, 3, 4), stride_in_1x1=True),
        fpn=None,
        rpn=cfg.RPNConfig(
            width=width,
            max_log_scale=UNLIMITED_SCALE,
            smooth_l1_beta=1 / 9,
            anchors=cfg.AnchorConfig(sizes=(tuple(16.0 * scale for scale in scales),)),
            legacy=cfg.LegacyRPNConfig(straddle=0.0, normalizer="sampled"),
            proposals=cfg.ProposalConfig(pre_nms_train=12000, pre_nms=6000, post_nms_train=2000, min_size=-1.0),
        ),
        box=cfg.BoxHeadConfig(trunk="res5", max_log_scale=UNLIMITED_SCALE, smooth_l1_beta=1.0, pooler=pooler),
        mask=cfg.MaskHeadConfig(trunk="res5", convs=0, pooler=pooler),
    )
