"""Settings that reproduce the rules of old systems. The defaults are the plain rules; models/legacy/ has the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LegacyConfig:
    """Rules of old systems that concern the whole detector."""

    # half_open: width = x2 - x1; inclusive: width = x2 - x1 + 1 (Detectron, MXNet's FCIS); inclusive_loose: as
    # inclusive, but decoded boxes are one pixel larger (mask-faster-rcnn); pixel_centers: coordinates run from the
    # first pixel's centre to the last's, so that images and anchors end one pixel earlier (matterport)
    boxes: Literal["half_open", "inclusive", "inclusive_loose", "pixel_centers"] = "half_open"
    # where the epsilon of FPN's equation 1 is added: inside the logarithm (Detectron2), or after it (torchvision)
    level_eps_inside: bool = True
    # also remove detections without area after rounding to whole pixels of the file (chainer-mask-rcnn)
    drop_subpixel: bool = False


@dataclass(frozen=True, kw_only=True)
class LegacyRPNConfig:
    """Rules of old systems in the region proposal network."""

    # torchvision: rounded to whole pixels, spaced by (input size // map size); detectron: R-CNN's MATLAB anchors,
    # stretched in whole pixels, as inclusive boxes (Detectron, MXNet's FCIS, mask-faster-rcnn)
    anchors: Literal["plain", "torchvision", "detectron"] = "plain"
    # sigmoid: one logit per anchor; softmax: two logits, background and object; object_logit: as softmax, but proposals
    # are sorted by the object's logit, not by its probability (both Chainer ports of FCIS)
    objectness: Literal["sigmoid", "softmax", "object_logit"] = "sigmoid"
    # the best anchor of each ground-truth box: positive with any IoU (kept), or negative if its IoU is below
    # negative_iou (overruled: tensorpack, MMDetection)
    low_quality: Literal["kept", "overruled"] = "kept"
    straddle: float = -1.0  # anchors that leave the image by more than this are ignored, pixels; -1: disabled
    crowd_ioa: float = 2.0  # anchors with a larger fraction than this inside a crowd are ignored; above 1: disabled
    # divisor of the losses. batch_size: sampling.batch_size (Detectron2, tensorpack); sampled: the number of sampled
    # anchors (torchvision, Chainer, mask-faster-rcnn); sampled_objectness: that for the objectness loss only (MXNet's
    # FCIS)
    normalizer: Literal["batch_size", "sampled", "sampled_objectness"] = "batch_size"
    # predict with the post_nms best anchors, without NMS; training has it (mask-faster-rcnn's TEST.MODE=top)
    top_without_nms: bool = False
    joint_levels: bool = False  # pre_nms and NMS over all levels together, not per level (tensorpack)
    whole_cells: bool = False  # proposals only from cells that lie entirely in the image (MXNet's FCIS)
    min_size_original: bool = False  # proposals.min_size is in pixels of the file (Detectron, Chainer)
    min_size_first: bool = False  # apply proposals.min_size before pre_nms, not after (Chainer, MXNet's FCIS)


@dataclass(frozen=True, kw_only=True)
class LegacyFCISConfig:
    """Rules of the two Chainer ports of FCIS; the defaults are the rules of the original (MXNet)."""

    rounded_regions: bool = True  # round region borders to whole pixels before pooling (original, chainer-fcis)
    # regions: ten times the mean over all regions (original, ChainerCV); pixels: the mean over the cells of positive
    # regions, without a factor (chainer-fcis)
    mask_loss: Literal["regions", "pixels"] = "regions"
    # ground-truth masks: only the part inside the object's box (original, chainer-fcis), or all of it (ChainerCV)
    mask_within_box: bool = True
    mask_inclusive: bool = True  # a pixel is set if its value is >= mask_threshold (original, chainer-fcis), or >
    # small detections are removed before voting, in pixels of the input; or after it, in pixels of the file
    drop: Literal["before", "after"] = "before"
    clip_votes: bool = False  # clip sums of votes to [0, 1] (ChainerCV)
