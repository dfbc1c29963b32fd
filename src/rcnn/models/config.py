"""Every setting of a detector, with its meaning and unit. A variant is a function that changes another (zoo.py)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# frozen_bn: fixed statistics, scale and shift; bn: of each process's batch; sync_bn: of the batch over all processes;
# gn: 32 groups of channels of each image; ln: the channels at each place (ViTDet); none: no norm, or one folded into
# the convolution, which then has a bias
Norm = Literal["frozen_bn", "bn", "sync_bn", "gn", "ln", "none"]
MAX_LOG_SCALE = 4.135166556742356  # log(1000 / 16)


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How an image file becomes the network's input."""

    min_size: int = 800  # shorter side after resizing, pixels
    max_size: int = 1333  # longer side at most, pixels
    # antialias: Pillow's bilinear on uint8 (Detectron2); bilinear: on floats, without antialiasing (torchvision);
    # align_corners: the same with corners aligned (D2Go); opencv: OpenCV's bilinear on uint8; opencv_float: on floats
    resize: Literal["antialias", "bilinear", "align_corners", "opencv", "opencv_float"] = "antialias"
    # of the resized sides: to the nearest pixel, down (FCIS in Chainer), or as OpenCV rounds those of a factor, which
    # then spaces the samples itself (chainer-mask-rcnn, DeNA); factor_limit: the longer side is rounded before it is
    # compared with max_size, too (Detectron, mask-faster-rcnn); factor_up: the same, but no image is made smaller for
    # min_size's sake, and the samples are spaced by the sides (matterport)
    size_rounding: Literal["round", "floor", "factor", "factor_limit", "factor_up"] = "round"
    canvas: int = 0  # side of a black square in whose middle images lie, pixels (matterport); 0: none
    # what boxes are divided by on their way back to the file's pixels: each axis by its own factor; both by that of the
    # width (ChainerCV) or of the height (chainer-fcis), by the mean of the two (tensorpack), by the one before rounding
    rescale: Literal["axes", "width", "height", "geometric", "factor"] = "axes"
    channel_order: Literal["rgb", "bgr"] = "rgb"  # what the weights were trained on
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)  # 0..255, in channel_order
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    divisor: int = 32  # exact padding: sides become multiples of this; 0: only to the largest image of the batch


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """ResNet (He et al. 2016), bottleneck blocks."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[50, 101, 152] = 50
    blocks: tuple[int, ...] = ()  # of res2, res3, res4, res5; none given: those of the depth
    groups: int = 1  # of the 3x3 convolutions; ResNeXt (Xie et al. 2017) has 32 ...
    width_per_group: int = 64  # ... of 8 channels each in res2
    stages: tuple[int, ...] = (2, 3, 4, 5)  # stages built and given to the FPN; C4 builds 2, 3, 4 and uses the last
    stride_in_1x1: bool = False  # caffe and MSRA put the stride in the first 1x1 convolution, torchvision in the 3x3
    norm: Norm = "frozen_bn"
    norm_eps: float = 1e-5
    trained_affine: bool = False  # frozen_bn fixes the statistics alone; scale and shift are trained (tensorpack)
    frozen_stages: int = 2  # not trained: 0 nothing, 1 the stem, 2 the stem and res2, ... 5 all
    # of the stem's 3x3 pooling: one pixel, sides rounded down or up; or none, rounded up (FCIS)
    stem_pool: Literal["padded", "padded_ceil", "unpadded_ceil"] = "padded"
    # strided convolutions: as PyTorch; 3 left and 2 right (tensorpack's AlignPadding); 2 left and 3 right (TensorFlow)
    padding: Literal["symmetric", "align", "tensorflow"] = "symmetric"
    res5_dilation: Literal[1, 2] = 1  # 2: res5 keeps the stride of 16, its 3x3 convolutions dilated (DC5, FCIS)
    res5_stride: Literal[1, 2] = 2  # of an undilated res5; 1: as a head, on regions of 7x7 (mask-faster-rcnn)

    def __post_init__(self) -> None:
        if self.blocks and (len(self.blocks) != 4 or min(self.blocks) < 1):
            raise ValueError(f"backbone.blocks is {self.blocks}; wanted four numbers, for res2, res3, res4 and res5")
        if not self.stages or self.stages != (2, 3, 4, 5)[: len(self.stages)]:
            raise ValueError(f"backbone.stages is {self.stages}; wanted (2, 3, 4, 5), or the first of them")
        if not 0 <= self.frozen_stages <= 5:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; wanted 0 (nothing) to 5 (all)")
        if self.trained_affine and self.norm != "frozen_bn":
            raise ValueError(f"backbone.trained_affine is for norm=frozen_bn; norm={self.norm} trains its own anyway")
        if self.padding != "symmetric" and self.stem_pool != "padded":
            raise ValueError(
                f"backbone.padding={self.padding} says how the stem pools, too, and so does "
                f"backbone.stem_pool={self.stem_pool}: leave out one of the two"
            )


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
    res5_stride: Literal[1, 2] = 2  # 1: c5 has the stride of c4, 16 (FCIS)
    norm: Literal["bn", "none"] = "bn"  # none: folded
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        # oneDNN's backward pass of a strided 1x1 convolution on fewer channels, innermost in memory, ends the process
        if min(*self.widths, self.stem_width) < 16:
            raise ValueError(f"backbone widths are {self.stem_width}, {self.widths}; wanted 16 channels or more")


@dataclass(frozen=True, kw_only=True)
class MobileNetConfig:
    """MobileNetV3-Large (Howard et al. 2019) as torchvision's detectors use it: two maps, both of stride 32."""

    kind: Literal["mobilenet"] = "mobilenet"
    norm: Literal["frozen_bn", "bn"] = "frozen_bn"
    frozen_stages: int = 0  # of six, from the image on

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 6:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; wanted 0 (nothing) to 6 (all)")


@dataclass(frozen=True, kw_only=True)
class TimmConfig:
    """Any `features_only` network of the timm library: ResNet-D, ConvNeXt, Swin, ... Needs rcnn[timm]."""

    kind: Literal["timm"] = "timm"
    name: str = "resnet50d"  # as timm.list_models() has it
    pretrained: bool = False  # download timm's weights when the detector is built
    frozen_stages: int = 0  # not trained: 0 nothing, 1 all up to c2, ... 4 all
    out_norm: bool = False  # layer norm of each map's channels, as Swin's and ConvNeXt's detectors have it
    drop_path: float = 0.0  # stochastic depth, where the network has it

    def __post_init__(self) -> None:
        if not 0 <= self.frozen_stages <= 4:
            raise ValueError(f"backbone.frozen_stages is {self.frozen_stages}; wanted 0 (nothing) to 4 (all)")


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Plain vision transformer of timm with ViTDet's windows and simple pyramid (Li et al. 2022). Needs rcnn[timm]."""

    kind: Literal["vit"] = "vit"
    # as timm.list_models() has it, after the dot which of its weights; patches of 16 pixels a side
    name: str = "vit_base_patch16_224.mae"
    pretrained: bool = False
    window: int = 14  # tokens a side that attend to each other; 0: all to all in every block
    global_blocks: int = 4  # evenly spread blocks in which all attend to all
    image_size: int = 1024  # pixels a side for which position embeddings are kept; other sizes interpolate them
    channels: int = 256  # of the simple pyramid p2..p5
    drop_path: float = 0.1


BackboneConfig = ResNetConfig | FBNetConfig | CompactConfig | MobileNetConfig | TimmConfig | ViTConfig


@dataclass(frozen=True, kw_only=True)
class FPNConfig:
    """Feature pyramid network (Lin et al. 2017): p2..p5, and p6 by subsampling p5."""

    channels: int = 256
    norm: Norm = "none"  # what is trained from scratch diverges without (He et al. 2019)
    conv_bias: bool = False  # convolutions have biases beside their norm (tensorpack)


@dataclass(frozen=True, kw_only=True)
class RPNConfig:
    """Region proposal network (Ren et al. 2015, section 3.1)."""

    sizes: tuple[tuple[float, ...], ...] = ((32,), (64,), (128,), (256,), (512,))  # anchors of each level, pixels
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)  # height / width
    rounded_anchors: bool = False  # cell anchors rounded to whole pixels (torchvision)
    # torchvision's anchors are the input's side over the map's apart, rounded down: 61 pixels where 800 are 13 steps of
    # stride 64
    floored_strides: bool = False
    # cell anchors of the first R-CNNs: rounded, and the last pixel belongs to a box (Detectron, MXNet's FCIS)
    legacy_anchors: bool = False
    anchor_margin: float = 0.0  # pixels by which anchors and images end earlier (matterport: 1)
    anchor_offset: float = 0.0  # the first anchor's centre, in strides; Chainer's ports have 0.5
    head: Literal["conv", "fbnet"] = "conv"
    convs: int = 1  # 3x3 convolutions before the two outputs
    width: int = 0  # their channels; 0: as many as they are given
    # an anchor's object score: one logit, or two of which the softmax is taken (background, object)
    classifier: Literal["sigmoid", "softmax"] = "sigmoid"
    ranking: Literal["probability", "object_logit"] = "probability"  # with two logits, what proposals are sorted by
    positive_iou: float = 0.7  # an anchor overlapping some object this much or more is an object
    negative_iou: float = 0.3  # one overlapping all objects less is background; between the two it is not used
    # an object's best anchor is positive whatever its IoU (kept), or only if that is not background's (tensorpack)
    low_quality: Literal["kept", "overruled"] = "kept"
    straddle: float = -1.0  # anchors leaving the image by more than so many pixels are not used; -1: all are
    crowd_ioa: float = 2.0  # nor those of which a larger part than this lies in a crowd; above 1: crowds play no part
    batch_size: int = 256  # anchors sampled for the loss, an image
    positive_fraction: float = 0.5  # of them objects, at most
    nms_iou: float = 0.7  # of two proposals of one level overlapping more, the lower scored goes
    pre_nms_train: int = 2000  # best scored anchors kept, a level
    pre_nms: int = 1000
    post_nms_train: int = 1000  # proposals kept, an image (all levels together)
    post_nms: int = 1000
    proposals: Literal["level", "joint"] = "level"  # pre_nms and NMS for each level, or for all together (tensorpack)
    # MXNet's FCIS takes proposals from the map's cells that lie wholly in the image alone
    whole_cells: bool = False
    # proposals with a side not longer than this are dropped, pixels (inclusive boxes: with one shorter than this)
    min_size: float = 0.0
    score_threshold: float = 0.0  # proposals of a lower probability are dropped (torchvision's MobileNet)
    min_size_original: bool = False  # these are pixels of the file, not of the network's input (Chainer)
    min_size_first: bool = False  # dropped before the best pre_nms are taken (Chainer, MXNet's FCIS), not after
    max_log_scale: float = MAX_LOG_SCALE  # logarithms of the predicted scales are cut here; 100: nowhere
    smooth_l1_beta: float = 0.0  # 0: plain L1
    loss_weights: tuple[float, float] = (1.0, 1.0)  # of objectness and of boxes
    # what the losses are divided by: the batch size, whatever was sampled (Detectron2, tensorpack); the number sampled
    # (torchvision, Chainer, mask-faster-rcnn); or that for the scores alone (MXNet's FCIS)
    normalizer: Literal["batch_size", "sampled", "sampled_objectness"] = "batch_size"


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


# COCO's person: what a keypoint data set without names of its own is taken for
COCO_KEYPOINTS = (
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
)  # fmt: skip
COCO_FLIP_PAIRS = ((1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16))
COCO_SIGMAS = (
    0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089,
    0.089,
)  # fmt: skip
DEFAULT_SIGMA = 0.067  # of keypoints that nobody gave one: the mean of COCO's


@dataclass(frozen=True, kw_only=True)
class KeypointHeadConfig:
    """Keypoint branch (He et al. 2017, section 5): a map for each keypoint, in which one place is it."""

    features: Literal["convs", "fbnet"] = "convs"
    convs: int = 8
    width: int = 512
    pooling: Pooling = "roi_align"
    roi_size: int = 14  # the maps are four times as large
    sampling_ratio: int = 0
    aligned: bool = True
    names: tuple[str, ...] = COCO_KEYPOINTS  # of the J keypoints
    flip_pairs: tuple[tuple[int, int], ...] = COCO_FLIP_PAIRS  # which change places in a mirror
    sigmas: tuple[float, ...] = COCO_SIGMAS  # how far off annotators are, in sides of the object (COCO's OKS)
    skeleton: tuple[tuple[int, int], ...] = ()  # keypoints joined by a line in pictures; none given: COCO's for its 17
    # the loss is divided by the keypoints that are seen, or by those that the sample could hold (Detectron2's option)
    normalizer: Literal["visible", "batch_size"] = "visible"
    loss_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class FCISConfig:
    """Fully convolutional instance segmentation (Li et al. 2017), in place of the box and mask heads.

    The three systems that have it differ in details; each is a setting. The defaults are the original's (MXNet).
    """

    width: int = 1024  # channels after the 1x1 convolution on c5 (the RPN reads c4)
    groups: int = 7  # k: position groups a side
    roi_size: int = 21  # cells a side of the pooled maps
    rounded_regions: bool = True  # region borders to whole pixels before pooling (original, chainer-fcis)
    delta_weights: tuple[float, float, float, float] = (5.0, 5.0, 2.0, 2.0)
    refine: bool = True  # pool a second time, from the boxes found
    sampling: Literal["ohem", "random"] = "ohem"  # the hardest regions (Shrivastava et al. 2016), or a random sample
    batch_size: int = 128
    positive_fraction: float = 0.25  # of a random sample
    positive_iou: float = 0.5
    background_iou: float = 0.0  # 0.1 on VOC
    mask_loss: Literal["regions", "pixels"] = "regions"  # a tenfold mean over regions, or a mean over objects' pixels
    # true masks: those of the object within its own box (original, chainer-fcis), or all of it that the region shows
    mask_within_box: bool = True
    mask_threshold: float = 0.4  # true and predicted masks are cut here
    mask_inclusive: bool = True  # a mask is set from the threshold on (original, chainer-fcis), or above it (ChainerCV)
    min_size: float = 2.0  # detections with a shorter side are dropped, pixels
    drop: Literal["before", "after"] = "before"  # voting, pixels of the input; or after it, pixels of the file
    nms_iou: float = 0.3
    vote_iou: float = 0.5  # masks overlapping a detection so much are averaged into its own; 0: no voting
    clip_votes: bool = False  # sums of votes are cut to [0, 1] (ChainerCV)
    score_threshold: float = 0.001
    max_detections: int = 100


@dataclass(frozen=True, kw_only=True)
class DetectorConfig:
    """A whole detector. `name` says which function of the zoo it began as."""

    name: str
    num_classes: int = 80  # K, without background
    input: InputConfig = field(default_factory=InputConfig)
    backbone: BackboneConfig = field(default_factory=ResNetConfig)
    fpn: FPNConfig | None = field(default_factory=FPNConfig)  # None: one map of stride 16 (C4), or the backbone's own
    rpn: RPNConfig = field(default_factory=RPNConfig)
    proposals_only: bool = False  # the RPN alone: its proposals are the detections, all of class 0
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    cascade: CascadeConfig | None = None  # several box heads, each of which is as `box` says
    mask: MaskHeadConfig | None = None
    keypoint: KeypointHeadConfig | None = None
    fcis: FCISConfig | None = None  # in place of box and mask, which then are not used
    # half_open: width = x2 - x1; inclusive: width = x2 - x1 + 1 (Detectron, MXNet's FCIS); inclusive_loose: the same,
    # but decoded boxes are a pixel larger (mask-faster-rcnn). Our tensors are half open all the same, ending where the
    # last pixel ends (their x2 + 1): models/box_rules.py says why that is equal, and does what is not
    boxes: Literal["half_open", "inclusive", "inclusive_loose"] = "half_open"

    @property
    def has_masks(self) -> bool:
        """Whether its detections have masks."""
        return self.mask is not None or self.fcis is not None
