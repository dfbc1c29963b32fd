"""Configs that cannot be, each with the reason. What one part alone refuses it says itself."""

from __future__ import annotations

import math
from functools import reduce

from rcnn.models.config import DetectorConfig, ResNetConfig

# counts and sides of which nothing can be built when they are 0; a part that is None is passed over
AT_LEAST_ONE = {
    "input": ("min_size", "max_size"),
    "fpn": ("channels",),
    "rpn.sampling": ("batch_size",),
    "rpn.proposals": ("pre_nms_train", "pre_nms", "post_nms_train", "post_nms"),
    "box": ("conv_width", "fc_width"),
    "box.pooler": ("size",),
    "box.sampling": ("batch_size",),
    "box.selection": ("max_detections",),
    "mask": ("width",),
    "mask.pooler": ("size",),
    "keypoint": ("width",),
    "keypoint.pooler": ("size",),
    "fcis": ("width", "groups", "roi_size", "max_detections"),
    "fcis.sampling": ("batch_size",),
}
BETWEEN_0_AND_1 = {
    "rpn.sampling": ("positive_fraction", "positive_iou", "negative_iou", "min_negative_iou"),
    "rpn.proposals": ("nms_iou", "score_threshold"),
    "box": ("score_threshold",),
    "box.sampling": ("positive_fraction", "positive_iou", "negative_iou", "min_negative_iou"),
    "box.selection": ("nms_iou", "soft_nms_threshold"),
    "mask": ("vote_iou",),
    "fcis": ("mask_threshold", "nms_iou", "vote_iou", "score_threshold"),
    "fcis.sampling": ("positive_fraction", "positive_iou", "negative_iou", "min_negative_iou"),
}


def validate(config: DetectorConfig) -> None:
    """Raise a ValueError where parts of `config` cannot go together: what they are, why, and what to do."""
    _require_numbers(config)
    if config.input.max_size < config.input.min_size:
        raise ValueError(
            f"input.min_size={config.input.min_size} is larger than input.max_size={config.input.max_size}, the limit "
            f"of the longer side; set input.max_size to {config.input.min_size} or more"
        )
    if config.proposals_only:
        _require_beside_proposals(config)
    _require_heads(config)
    if config.legacy.boxes != "half_open" and config.cascade is not None:
        raise ValueError(
            f"legacy.boxes={config.legacy.boxes} comes from systems without a cascade and is not defined for one; set "
            "legacy.boxes=half_open or cascade=null"
        )
    if config.cascade is not None:
        _require_cascade(config)
    if config.fcis is not None:
        _require_beside_fcis(config)


def _require_numbers(config: DetectorConfig) -> None:
    box_unused = config.proposals_only or config.fcis is not None
    for limits, least, most in ((AT_LEAST_ONE, 1, math.inf), (BETWEEN_0_AND_1, 0, 1)):
        for part, names in limits.items():
            if box_unused and part.startswith("box"):
                continue
            settings = reduce(lambda parent, name: getattr(parent, name, None), part.split("."), config)
            for name in names if settings is not None else ():
                value = getattr(settings, name)
                if value is not None and not least <= value <= most:
                    expected = "1 or more" if least else "0 to 1"
                    raise ValueError(f"{part}.{name} is {value}; expected {expected}")


def _require_beside_proposals(config: DetectorConfig) -> None:
    for name in ("mask", "cascade", "keypoint"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"proposals_only builds the RPN alone, and a {name} head needs the second stage: use {name}=null, or "
                "proposals_only=false"
            )
    if config.num_classes != 1:
        raise ValueError(f"proposals_only finds objects of whatever class: num_classes={config.num_classes}, wanted 1")


def _require_heads(config: DetectorConfig) -> None:
    box, mask = config.box, config.mask
    if config.num_classes < 1:
        raise ValueError(f"num_classes is {config.num_classes}; expected 1 or more, without background")
    if box.class_weights and len(box.class_weights) != config.num_classes + 1:
        raise ValueError(
            f"box.class_weights has {len(box.class_weights)} numbers for {config.num_classes} classes; wanted "
            f"{config.num_classes + 1}, one for each class in order and the last for background"
        )
    sampling, selection = box.sampling, box.selection
    if not 0 <= sampling.min_negative_iou <= sampling.positive_iou:
        raise ValueError(
            f"box.sampling has min_negative_iou={sampling.min_negative_iou} and positive_iou={sampling.positive_iou}; "
            "expected 0 <= min_negative_iou <= positive_iou"
        )
    if selection.nms == "soft_gaussian" and selection.soft_nms_sigma <= 0:
        raise ValueError(f"box.selection.soft_nms_sigma is {selection.soft_nms_sigma}; expected a number above 0")
    if mask is not None and mask.trunk == "res5" and box.trunk != "res5":
        raise ValueError(f"mask.trunk=res5 shares the box head's res5; box.trunk is {box.trunk}: use mask.trunk=convs")
    resnet = config.backbone if isinstance(config.backbone, ResNetConfig) else None
    if box.trunk == "res5" and resnet is not None and config.fpn is not None:
        raise ValueError(
            "box.trunk=res5 continues a ResNet from res4, and a pyramid gives maps of its own: use box.trunk=fc, "
            "or fpn=null and backbone.stages=[2, 3, 4]"
        )
    if box.trunk == "res5" and resnet is not None and 5 in resnet.stages:
        raise ValueError(
            "box.trunk=res5 continues a ResNet from res4, and this backbone has its own res5 before it: use "
            "backbone.stages=[2, 3, 4], or box.trunk=fc"
        )


def _require_cascade(config: DetectorConfig) -> None:
    cascade, box = config.cascade, config.box
    if cascade is None:
        return
    lists = {"ious": cascade.ious, "delta_weights": cascade.delta_weights, "loss_weights": cascade.loss_weights}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1 or not cascade.ious:
        told = ", ".join(f"cascade.{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{told}: wanted one of each for every stage")
    if box.trunk == "res5":
        raise ValueError(
            "a cascade has a whole head for each stage, and box.trunk=res5 (C4) is one network that the box and "
            "mask heads share: use fpn={}, backbone.stages=[2, 3, 4, 5] and box.trunk=fc"
        )
    if box.trunk == "fbnet":
        raise ValueError("a cascade of D2Go's light heads exists nowhere: use box.trunk=fc")


def _require_beside_fcis(config: DetectorConfig) -> None:
    for name in ("mask", "cascade", "keypoint"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"FCIS finds boxes, classes and masks from maps of its own, and a {name} head has no place beside it: "
                f"use {name}=null, or fcis=null"
            )
    if config.fpn is not None:
        raise ValueError(
            "FCIS reads c4 and c5 of the backbone, and a pyramid gives maps of its own in their place: use fpn=null"
        )
    if config.proposals_only:
        raise ValueError("proposals_only builds the RPN alone, and fcis a second stage: use one of the two")
