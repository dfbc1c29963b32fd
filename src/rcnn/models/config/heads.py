"""Settings of the second stage: boxes, masks, and several box heads in a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from rcnn.models.config.backbones import Norm
from rcnn.models.config.parts import PoolerConfig, RegionSamplingConfig, SelectionConfig, plain_arguments
from rcnn.ops.deltas import MAX_LOG_SCALE

BOX_SAMPLING = RegionSamplingConfig(batch_size=512, positive_fraction=0.25, positive_iou=0.5)


@dataclass(frozen=True, kw_only=True)
class BoxHeadConfig:
    """Second stage (Girshick 2015; Ren et al. 2015): class scores and refined boxes of the proposals."""

    # convs, then fcs; a ResNet's last stage; D2Go's blocks; the last two blocks of MobileNet v1
    trunk: Literal["fc", "res5", "fbnet", "mobilenet_v1"] = "fc"
    convs: int = 0  # 3x3 convolutions first (4conv1fc: Wu and He 2018)
    conv_width: int = 256
    norm: Norm = "none"  # of these convolutions
    norm_after_relu: bool = False  # convolution with bias, ReLU, norm (tensorpack); False: convolution, norm, ReLU
    fcs: int = 2
    fc_width: int = 1024
    class_agnostic: bool = False  # one box for all classes
    pooler: PoolerConfig = field(default=PoolerConfig(size=7))
    delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    max_log_scale: float = MAX_LOG_SCALE  # upper limit of the predicted log scales; 100: none
    sampling: RegionSamplingConfig = BOX_SAMPLING
    append_ground_truth: bool = True  # ground-truth boxes are regions, too
    smooth_l1_beta: float = 0.0  # 0: plain L1
    class_loss_weight: float = 1.0  # factor of the class loss
    delta_loss_weight: float = 1.0  # factor of the box loss
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = 2.0  # how strongly easy regions are down-weighted (Lin et al. 2017b)
    class_weights: tuple[float, ...] = ()  # of the K classes, then background; (): all 1
    score_threshold: float = 0.05  # detections with a score above this are kept
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    factory: str = ""  # import path of what makes the user's own head (models/own.py); "": the head described here
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # keyword arguments of the factory

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", plain_arguments(self.arguments, "box.arguments"))


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig:
    """Mask branch (He et al. 2017, section 3)."""

    trunk: Literal["convs", "res5", "fbnet"] = "convs"
    convs: int = 4
    width: int = 256
    norm: Norm = "none"
    norm_after_relu: bool = False
    class_agnostic: bool = False  # one mask for all classes
    pooler: PoolerConfig = field(default=PoolerConfig(size=14))
    # ground-truth masks in the frame of a region. polygon: outlines filled as pycocotools does (Detectron2);
    # bitmap: sampled and binarized at 0.5 (Detectron2's bitmask); soft_bitmap: sampled only (torchvision).
    # The others are of old systems (models/legacy/mask_targets.py): sampled_bitmap: one sample per cell (tensorpack);
    # cropped to whole pixels and resized: bilinear and binarized at 0.5 (resized_bitmap, chainer-mask-rcnn), the same
    # in integers (truncated_bitmap, DeNA), or nearest (nearest_bitmap, mask-faster-rcnn)
    target: Literal[
        "polygon", "bitmap", "soft_bitmap", "sampled_bitmap", "resized_bitmap", "truncated_bitmap", "nearest_bitmap"
    ] = "polygon"
    loss_weight: float = 1.0  # factor of the mask loss
    # initial weights of the deconvolution and of the layer after it. default: He et al. 2015, then a normal
    # distribution with standard deviation 0.001 (Detectron2); normal: standard deviation 0.01 for both; he: He et al.
    # 2015 for both (chainer-mask-rcnn's --initializer)
    initializer: Literal["default", "normal", "he"] = "default"
    # how a predicted mask is pasted into the image. accurate: sampled at each pixel's centre; padded: a border of zeros
    # is added, then resized to whole pixels (Detectron, Chainer); squeezed: as padded, into the clipped box (DeNA);
    # rounded: resized to the rounded box (tensorpack's fast mode); stretched: normalized to its range first
    # (mask-faster-rcnn)
    paste: Literal["accurate", "padded", "squeezed", "rounded", "stretched"] = "accurate"
    # masks of the same class with at least this IoU with a detection are averaged into its mask; 0: no voting
    vote_iou: float = 0.0
    factory: str = ""  # import path of what makes the user's own head (models/own.py); "": the head described here
    arguments: Mapping[str, Any] = field(default_factory=dict, hash=False)  # keyword arguments of the factory

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", plain_arguments(self.arguments, "mask.arguments"))


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """Cascade R-CNN (Cai and Vasconcelos 2018): box heads in a row, each refining the boxes of the one before."""

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)  # regions with at least this IoU are positive, per stage
    delta_weights: tuple[tuple[float, float, float, float], ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0)  # per stage; the paper and MMDetection: 1, 0.5, 0.25
    feature_gradient: float = 1 / 3  # factor of each stage's gradient into the features (Detectron2)
    # average over the stages: probabilities (Detectron2, tensorpack), or logits before one softmax (MMDetection)
    average: Literal["probabilities", "logits"] = "probabilities"
    # regions of the later stages: all boxes of the stage before (Detectron2, tensorpack), or a new sample of them with
    # the ground-truth boxes appended (MMDetection)
    resample: bool = False
    # one head, trained on the first stage's regions (Detectron2, tensorpack), or one per stage, averaged (MMDetection)
    mask_heads: Literal["one", "each"] = "one"
