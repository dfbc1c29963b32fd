"""Settings of the region proposal network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_LOG_SCALE = 4.135166556742356  # log(1000 / 16)


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
