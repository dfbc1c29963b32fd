"""The named models: each a function from nothing to a config, most of them a change to another."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import replace

from rcnn.models.config import (
    BoxHeadConfig,
    CompactConfig,
    DetectorConfig,
    FBNetConfig,
    FPNConfig,
    InputConfig,
    MaskHeadConfig,
    ResNetConfig,
    RPNConfig,
)

CAFFE_INPUT = InputConfig(channel_order="bgr", pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0))
C4_SIZES = ((32.0, 64.0, 128.0, 256.0, 512.0),)


def faster_rcnn_r50_fpn() -> DetectorConfig:
    """Lin et al. 2017: 2-fc head on a feature pyramid; stride in the 3x3, RGB, as torchvision's ResNet wants."""
    return DetectorConfig(name="faster_rcnn_r50_fpn")


def mask_rcnn_r50_fpn() -> DetectorConfig:
    """He et al. 2017: `faster_rcnn_r50_fpn` with a 4-conv mask head."""
    return replace(faster_rcnn_r50_fpn(), name="mask_rcnn_r50_fpn", mask=MaskHeadConfig())


def faster_rcnn_r101_fpn() -> DetectorConfig:
    """`faster_rcnn_r50_fpn` with 101 layers."""
    return replace(faster_rcnn_r50_fpn(), name="faster_rcnn_r101_fpn", backbone=ResNetConfig(depth=101))


def mask_rcnn_r101_fpn() -> DetectorConfig:
    """`mask_rcnn_r50_fpn` with 101 layers."""
    return replace(mask_rcnn_r50_fpn(), name="mask_rcnn_r101_fpn", backbone=ResNetConfig(depth=101))


def faster_rcnn_r50_c4() -> DetectorConfig:
    """Ren et al. 2015 on ResNet (He et al. 2016): one map of stride 16, res5 as the head."""
    return DetectorConfig(
        name="faster_rcnn_r50_c4",
        input=InputConfig(divisor=0),
        backbone=ResNetConfig(stages=(2, 3, 4)),
        fpn=None,
        rpn=RPNConfig(sizes=C4_SIZES, pre_nms_train=12000, pre_nms=6000, post_nms_train=2000),
        box=BoxHeadConfig(features="res5", roi_size=14),
    )


def mask_rcnn_r50_c4() -> DetectorConfig:
    """He et al. 2017, figure 4 left: masks from the same res5."""
    return replace(faster_rcnn_r50_c4(), name="mask_rcnn_r50_c4", mask=MaskHeadConfig(features="res5", convs=0))


def faster_rcnn_r101_c4() -> DetectorConfig:
    """`faster_rcnn_r50_c4` with 101 layers."""
    return replace(faster_rcnn_r50_c4(), name="faster_rcnn_r101_c4", backbone=ResNetConfig(depth=101, stages=(2, 3, 4)))


def mask_rcnn_r101_c4() -> DetectorConfig:
    """`mask_rcnn_r50_c4` with 101 layers."""
    return replace(mask_rcnn_r50_c4(), name="mask_rcnn_r101_c4", backbone=ResNetConfig(depth=101, stages=(2, 3, 4)))


def caffe(config: DetectorConfig) -> DetectorConfig:
    """The same on MSRA's ResNet: stride in the 1x1, BGR, means only (Detectron, most of Detectron2's zoo)."""
    if not isinstance(config.backbone, ResNetConfig):
        raise ValueError(f"{config.name} has no ResNet, whose stride could move into the 1x1")
    return replace(
        config,
        name=f"{config.name}_caffe",
        input=replace(CAFFE_INPUT, divisor=config.input.divisor),
        backbone=replace(config.backbone, stride_in_1x1=True),
    )


def faster_rcnn_fbnetv3a_c4() -> DetectorConfig:
    """D2Go's Faster R-CNN: FBNetV3A to stride 16, a light head, 320 pixels."""
    return DetectorConfig(
        name="faster_rcnn_fbnetv3a_c4",
        input=replace(CAFFE_INPUT, min_size=320, max_size=640, resize="align_corners", divisor=0),
        backbone=FBNetConfig(),
        fpn=None,
        rpn=RPNConfig(sizes=((32.0, 64.0, 96.0, 128.0, 160.0),), head="fbnet", post_nms_train=100, post_nms=30),
        box=BoxHeadConfig(features="fbnet", roi_size=6, batch_size=128),
    )


def mask_rcnn_fbnetv3a_c4() -> DetectorConfig:
    """D2Go's Mask R-CNN: the mask branch shrinks to 7x7 and grows to 28x28 by its own blocks."""
    return replace(
        faster_rcnn_fbnetv3a_c4(), name="mask_rcnn_fbnetv3a_c4", mask=MaskHeadConfig(features="fbnet", convs=0)
    )


def mask_rcnn_compact() -> DetectorConfig:
    """A small Mask R-CNN to train from scratch in minutes on a CPU: what `rcnn demo` trains."""
    return DetectorConfig(
        name="mask_rcnn_compact",
        num_classes=6,
        input=InputConfig(min_size=128, max_size=256),
        backbone=CompactConfig(),
        fpn=FPNConfig(channels=48, norm="bn"),
        rpn=RPNConfig(
            sizes=((16.0,), (26.0,), (42.0,), (66.0,), (104.0,)),
            pre_nms_train=200, pre_nms=200, post_nms_train=150, post_nms=100, batch_size=128,
        ),
        box=BoxHeadConfig(fc_width=256, batch_size=36, positive_fraction=0.34),
        mask=MaskHeadConfig(convs=2, width=48, roi_size=10),
    )  # fmt: skip


def faster_rcnn_compact() -> DetectorConfig:
    """`mask_rcnn_compact` without masks."""
    return replace(mask_rcnn_compact(), name="faster_rcnn_compact", mask=None)


def _named(*functions: Callable[[], DetectorConfig]) -> dict[str, Callable[[], DetectorConfig]]:
    return {function.__name__: function for function in functions}


_TORCHVISION_STYLE = _named(
    faster_rcnn_r50_fpn, mask_rcnn_r50_fpn, faster_rcnn_r101_fpn, mask_rcnn_r101_fpn,
    faster_rcnn_r50_c4, mask_rcnn_r50_c4, faster_rcnn_r101_c4, mask_rcnn_r101_c4,
)  # fmt: skip

MODELS: dict[str, Callable[[], DetectorConfig]] = {
    **_TORCHVISION_STYLE,
    **{f"{name}_caffe": (lambda function=function: caffe(function())) for name, function in _TORCHVISION_STYLE.items()},
    **_named(faster_rcnn_fbnetv3a_c4, mask_rcnn_fbnetv3a_c4, faster_rcnn_compact, mask_rcnn_compact),
}


def model_config(name: str) -> DetectorConfig:
    """The config called `name`; a ValueError names the nearest if there is none."""
    if name not in MODELS:
        close = difflib.get_close_matches(name, MODELS, n=3) or sorted(MODELS)
        raise ValueError(f"no model named {name!r}; did you mean {' or '.join(close)}?")
    return MODELS[name]()
