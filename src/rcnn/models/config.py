"""Every setting of a detector, with its meaning and unit. A variant is a function that changes another (zoo.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How an image file becomes the network's input."""

    min_size: int = 800  # shorter side after resizing, pixels
    max_size: int = 1333  # longer side at most, pixels
    # antialias: Pillow's bilinear on uint8 (Detectron2); bilinear: on floats, without antialiasing (torchvision);
    # align_corners: the same with corners aligned (D2Go)
    resize: Literal["antialias", "bilinear", "align_corners"] = "antialias"
    channel_order: Literal["rgb", "bgr"] = "rgb"  # what the weights were trained on
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # 0..255, in channel_order
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    divisor: int = 32  # exact padding: sides become multiples of this; 0: only to the largest image of the batch


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet (He et al. 2016), bottleneck blocks."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[50, 101] = 50
    stages: tuple[int, ...] = (2, 3, 4, 5)  # stages built and given to the FPN; C4 builds 2, 3, 4 and uses the last
    stride_in_1x1: bool = False  # caffe and MSRA put the stride in the first 1x1 convolution, torchvision in the 3x3
    norm: Literal["frozen_bn", "bn", "none"] = "frozen_bn"  # none: folded into the convolutions, which then have biases
    norm_eps: float = 1e-5
    frozen_stages: int = 2  # not trained: 0 nothing, 1 the stem, 2 the stem and res2, ...


@dataclass(frozen=True, kw_only=True)
class FBNetConfig:
    """FBNetV3A trunk to stride 16, 112 channels (Dai et al. 2021), as D2Go's detectors use it; norms folded."""

    kind: Literal["fbnet"] = "fbnet"
    width: float = 1.0  # all channels, of the heads too, are multiplied by it and rounded to multiples of 8
    frozen_blocks: int = 0  # the first blocks that are not trained


@dataclass(frozen=True, kw_only=True)
class CompactConfig:
    """A small residual network with batch norm, to be trained from scratch in minutes."""

    kind: Literal["compact"] = "compact"
    widths: tuple[int, int, int, int] = (32, 48, 64, 96)  # channels of res2..res5, strides 4..32
    stem_width: int = 16
    norm: Literal["bn", "none"] = "bn"  # none: folded
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        # oneDNN's backward pass of a strided 1x1 convolution on fewer channels, innermost in memory, ends the process
        if min(*self.widths, self.stem_width) < 16:
            raise ValueError(f"backbone widths are {self.stem_width}, {self.widths}; wanted 16 channels or more")


@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """Feature pyramid network (Lin et al. 2017): p2..p5, and p6 by subsampling p5."""

    channels: int = 256
    norm: Literal["none", "bn"] = "none"  # bn: what is trained from scratch diverges without (He et al. 2019)


@dataclass(frozen=True, kw_only=True)
class RPNConfig:
    """Region proposal network (Ren et al. 2015, section 3.1)."""

    sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))  # anchors of each level, pixels
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rounded_anchors: bool = False  # cell anchors rounded to whole pixels (torchvision)
    # torchvision's anchors are the input's side over the map's apart, rounded down: 61 pixels where 800 are 13 steps of
    # stride 64
    floored_strides: bool = False
    head: Literal["conv", "fbnet"] = "conv"
    convs: int = 1  # 3x3 convolutions before the two outputs
    positive_iou: float = 0.7  # an anchor overlapping some object this much or more is an object
    negative_iou: float = 0.3  # one overlapping all objects less is background; between the two it is not used
    batch_size: int = 256  # anchors sampled for the loss, an image
    positive_fraction: float = 0.5  # of them objects, at most
    nms_iou: float = 0.7  # of two proposals of one level overlapping more, the lower scored goes
    pre_nms_train: int = 2000  # best scored anchors kept, a level
    pre_nms: int = 1000
    post_nms_train: int = 1000  # proposals kept, an image (all levels together)
    post_nms: int = 1000
    min_size: float = 0.0  # proposals with a side not longer than this are dropped, pixels
    smooth_l1_beta: float = 0.0  # 0: plain L1
    # what the losses are divided by: the batch size, whatever was sampled (Detectron2), or the number sampled
    normalizer: Literal["batch_size", "sampled"] = "batch_size"


@dataclass(frozen=True, kw_only=True)
class BoxHeadConfig:
    """Second stage (Girshick 2015; Ren et al. 2015): class scores and refined boxes of the proposals."""

    features: Literal["fc", "res5", "fbnet"] = "fc"  # two fully connected layers; a ResNet's last stage; D2Go's blocks
    fc_width: int = 1024
    roi_size: int = 7
    sampling_ratio: int = 0  # samples along a bin's side; 0: as many as the bin has pixels, rounded up
    aligned: bool = True  # half a pixel back (Detectron2's ROIAlignV2); False: as first published
    level_eps_inside: bool = True  # the small number in the level formula sits in the logarithm's argument
    delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    positive_iou: float = 0.5
    batch_size: int = 512  # regions sampled for the loss, an image
    positive_fraction: float = 0.25
    smooth_l1_beta: float = 0.0
    score_threshold: float = 0.05  # detections scored higher are kept
    nms_iou: float = 0.5  # within a class
    max_detections: int = 100  # an image
    min_size: float = -1.0  # detections with a side not longer than this are dropped, pixels; -1: none


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig:
    """Mask branch (He et al. 2017, section 3)."""

    features: Literal["convs", "res5", "fbnet"] = "convs"
    convs: int = 4
    width: int = 256
    roi_size: int = 14
    sampling_ratio: int = 0
    aligned: bool = True
    # true masks in a region's frame: outlines filled as pycocotools does (Detectron2);
    # bitmaps sampled and cut at one half (Detectron2's bitmask); or sampled only (torchvision)
    target: Literal["polygon", "bitmap", "soft_bitmap"] = "polygon"


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A whole detector. `name` says which function of the zoo it began as."""

    name: str
    num_classes: int = 80  # K, without background
    input: InputConfig = field(default_factory=InputConfig)
    backbone: ResNetConfig | FBNetConfig | CompactConfig = field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = field(default_factory=FPNConfig)  # None: one map of stride 16 (C4)
    rpn: RPNConfig = field(default_factory=RPNConfig)
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    mask: MaskHeadConfig | None = None
