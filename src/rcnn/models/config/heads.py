"""Settings of the second stage: boxes, masks, and several box heads in a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rcnn.models.config.backbones import Norm
from rcnn.models.config.rpn import MAX_LOG_SCALE

# roi_align: He et al. 2017; roi_pool: the maximum of rounded bins (Girshick 2015); crop_resize: cut out at whole cells
# of the map, then resized (chainer-mask-rcnn); affine: bilinear samples from border to border, both included, zeros
# outside the map (mask-faster-rcnn, TensorFlow's crop_and_resize, RoIWarp: Dai et al. 2016)
# normalized: the same, places counted from the first pixel's centre to the last's, levels to the nearest (matterport)
Pooling = Literal["roi_align", "roi_pool", "crop_resize", "affine", "normalized"]


@dataclass(frozen=True, kw_only=True)
class BoxHeadConfig:
    """Second stage (Girshick 2015; Ren et al. 2015): class scores and refined boxes of the proposals."""

    features: Literal["fc", "res5", "fbnet"] = "fc"  # convs, then fcs; a ResNet's last stage; D2Go's blocks
    convs: int = 0  # 3x3 convolutions first (4conv1fc: Wu and He 2018)
    conv_width: int = 256
    norm: Norm = "none"  # of these convolutions
    norm_after_relu: bool = False  # convolution with bias, ReLU, norm (tensorpack), in place of convolution, norm, ReLU
    fcs: int = 2
    fc_width: int = 1024
    class_agnostic: bool = False  # one box for all classes
    pooling: Pooling = "roi_align"
    roi_size: int = 7
    sampling_ratio: int = 0  # samples along a bin's side; 0: as many as the bin has pixels, rounded up
    aligned: bool = True  # half a pixel back (Detectron2's ROIAlignV2); False: as first published
    level_eps_inside: bool = True  # the small number in the level formula sits in the logarithm's argument
    delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    max_log_scale: float = MAX_LOG_SCALE
    positive_iou: float = 0.5
    background_iou: float = 0.0  # regions overlapping all objects less are not used
    append_objects: bool = True  # true boxes are regions too
    batch_size: int = 512  # regions sampled for the loss, an image
    positive_fraction: float = 0.25
    smooth_l1_beta: float = 0.0
    delta_loss_weight: float = 1.0  # of the boxes' loss
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = 2.0  # how little what is easy weighs (Lin et al. 2017b)
    class_weights: tuple[float, ...] = ()  # of the K classes and the background; none given: all 1
    score_threshold: float = 0.05  # detections scored higher are kept
    nms_iou: float = 0.5  # within a class
    class_agnostic_nms: bool = False  # of two overlapping detections the lower goes, whatever their classes
    nms: Literal["hard", "soft_linear", "soft_gaussian"] = "hard"  # soft: scores sink instead (Bodla et al. 2017)
    soft_nms_sigma: float = 0.5
    soft_nms_threshold: float = 0.001  # scores sunk below it are gone
    max_detections: int = 100  # an image
    # best: the highest scored are kept; unsorted: those that chainer-mask-rcnn keeps, whose ranks are argsort's places
    cap: Literal["best", "unsorted"] = "best"
    min_size: float = -1.0  # detections with a side not longer than this are dropped, pixels; -1: none
    # as are those that have no area in whole pixels of the file, their ends rounded (chainer-mask-rcnn)
    drop_subpixel: bool = False

    @property
    def most_objects(self) -> int:
        """How many regions of an image are objects at most, of those sampled for the loss."""
        return max(1, int(self.batch_size * self.positive_fraction))


@dataclass(frozen=True, kw_only=True)
class MaskHeadConfig:
    """Mask branch (He et al. 2017, section 3)."""

    features: Literal["convs", "res5", "fbnet"] = "convs"
    convs: int = 4
    width: int = 256
    norm: Norm = "none"
    norm_after_relu: bool = False
    class_agnostic: bool = False  # one mask for all classes
    pooling: Pooling = "roi_align"
    roi_size: int = 14
    sampling_ratio: int = 0
    aligned: bool = True
    # true masks in a region's frame: outlines filled as pycocotools does (Detectron2);
    # bitmaps sampled and cut at one half (Detectron2's bitmask); or sampled only (torchvision); or one sample a cell
    # (tensorpack); or cut out at whole pixels and resized: bilinear and cut at one half (chainer-mask-rcnn), so in
    # integers (DeNA), or nearest (mask-faster-rcnn)
    target: Literal[
        "polygon", "bitmap", "soft_bitmap", "sampled_bitmap", "resized_bitmap", "truncated_bitmap", "nearest_bitmap"
    ] = "polygon"
    # how a predicted mask comes into the image: sampled at each pixel's centre; or enlarged by a border of zeros and
    # resized to whole pixels (Detectron, Chainer); the same into the box cut to the image (DeNA); resized to the
    # rounded box (tensorpack's fast way); or stretched to its own range first (mask-faster-rcnn)
    paste: Literal["accurate", "padded", "squeezed", "rounded", "stretched"] = "accurate"
    vote_iou: float = 0.0  # masks of a class overlapping a detection so much are averaged into its own; 0: no voting


@dataclass(frozen=True, kw_only=True)
class CascadeConfig:
    """Cascade R-CNN (Cai and Vasconcelos 2018): box heads in a row, each starting from the boxes of the one before."""

    ious: tuple[float, ...] = (0.5, 0.6, 0.7)  # from which a region is an object, for each stage
    delta_weights: tuple[tuple[float, float, float, float], ...] = (
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.0, 30.0, 15.0, 15.0),
    )
    loss_weights: tuple[float, ...] = (1.0, 1.0, 1.0)  # of the stages; the paper and MMDetection take 1, .5, .25
    feature_gradient: float = 1 / 3  # each stage's gradient into the features is multiplied by it (Detectron2)
    # of the stages: the softmaxes (paper, Detectron2, tensorpack), or the logits before one softmax (MMDetection)
    average: Literal["probabilities", "logits"] = "probabilities"
    # regions of the later stages: all boxes of the stage before (Detectron2, tensorpack), or a new sample of them with
    # the true boxes added (MMDetection)
    resample: bool = False
    # one head, trained on the first stage's regions (Detectron2, tensorpack), or one for each stage, averaged
    mask_heads: Literal["one", "each"] = "one"
