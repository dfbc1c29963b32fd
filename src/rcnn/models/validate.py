"""Checks of a whole config: values out of range and combinations of settings that are not defined."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import reduce

from rcnn.models.config import (
    BoxHeadConfig,
    DetectorConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    ResNetConfig,
    ViTConfig,
)
from rcnn.models.config.parts import SamplingConfig
from rcnn.models.setting_ranges import LARGEST, numbers_of, require_range

# counts and sizes that must be at least 1; parts that are None are skipped
AT_LEAST_ONE = {
    "input": ("min_size", "max_size"),
    "backbone": ("channels", "depth", "groups", "image_size", "stem_width", "width_per_group", "widths"),
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
AT_MOST = {  # layers, and bins and samples of a region; a damaged config could use up time and memory
    "rpn": ("convs",),
    "box": ("convs", "fcs"),
    "mask": ("convs",),
    "keypoint": ("convs",),
    "box.pooler": ("size", "sampling_ratio"),
    "mask.pooler": ("size", "sampling_ratio"),
    "keypoint.pooler": ("size", "sampling_ratio"),
    "fcis": ("roi_size", "groups"),
}
MOST = 128
SIDES = {"input": ("min_size", "divisor", "canvas")}  # of images, pixels
LONGEST_SIDE = 65_536
MAY_BE_NEGATIVE = ("rpn.legacy.straddle", "rpn.proposals.min_size", "box.selection.min_size", "input.pixel_mean")
ABOVE_0 = {  # what something is divided by
    "input": ("pixel_std",),
    "backbone": ("width",),
    "rpn.anchors": ("sizes", "ratios"),
    "box": ("delta_weights",),
    "cascade": ("delta_weights",),
    "fcis": ("delta_weights", "mask_threshold"),
    "keypoint": ("sigmas",),
}
BETWEEN_0_AND_1 = {
    "backbone": ("drop_path",),
    "rpn.sampling": ("positive_fraction", "positive_iou", "negative_iou"),
    "rpn.proposals": ("nms_iou", "score_threshold"),
    "box": ("score_threshold",),
    "box.sampling": ("positive_fraction", "positive_iou", "min_negative_iou"),
    "box.selection": ("nms_iou", "soft_nms_threshold"),
    "cascade": ("ious",),
    "mask": ("vote_iou",),
    "fcis": ("mask_threshold", "nms_iou", "vote_iou", "score_threshold"),
    "fcis.sampling": ("positive_fraction", "positive_iou", "min_negative_iou"),
}


def validate(config: DetectorConfig) -> None:
    """Raise ValueError if a setting of `config` is out of range or contradicts another; it says what to change."""
    _require_numbers(config)
    _require_iou_order(config)
    _require_positives(config)
    if not config.rpn.anchors.ratios:
        raise ValueError("rpn.anchors.ratios is empty; expected one ratio or more, e.g. [0.5, 1, 2]")
    if not all(config.rpn.anchors.sizes):
        raise ValueError(
            f"rpn.anchors.sizes is {config.rpn.anchors.sizes}; expected a size or more per level, e.g. [[32], [64]]"
        )
    for part in ("box", "mask", "keypoint"):
        settings = getattr(config, part)
        if settings is not None and settings.arguments and not settings.factory:
            raise ValueError(
                f"{part}.arguments are those of your own {part} head, but {part}.factory is not set; set it, or remove "
                f"{part}.arguments"
            )
    if config.input.max_size < config.input.min_size:
        raise ValueError(
            f"input.min_size={config.input.min_size} is larger than input.max_size={config.input.max_size}, the limit "
            f"of the longer side; set input.max_size to {config.input.min_size} or more"
        )
    if isinstance(config.backbone, ViTConfig) and (config.input.divisor % 32 or not config.input.divisor):
        raise ValueError(
            f"input.divisor is {config.input.divisor}; expected a multiple of 32 with backbone.kind=vit: the map p5 "
            "has half the rows and columns of the tokens"
        )
    if config.proposals_only:
        _require_beside_proposals(config)
    _require_heads(config)
    if config.legacy.boxes != "half_open" and config.cascade is not None:
        raise ValueError(
            f"legacy.boxes={config.legacy.boxes} comes from systems without a cascade and is not defined for one; set "
            "legacy.boxes=half_open or cascade=null"
        )
    _require_own_heads(config)
    if config.cascade is not None:
        _require_cascade(config)
    if config.fcis is not None:
        _require_beside_fcis(config)


def _require_numbers(config: DetectorConfig) -> None:
    ranges = ((AT_LEAST_ONE, 1, math.inf), (BETWEEN_0_AND_1, 0, 1), (AT_MOST, 0, MOST), (SIDES, 0, LONGEST_SIDE))
    for limits, least, most in ranges:
        for path, value in _settings_of(config, limits):
            require_range(path, value, least, most)
    for path, value in _settings_of(config, ABOVE_0):
        if any(number < sys.float_info.min for _, number in numbers_of(value)):
            raise ValueError(f"{path} is {value}; expected more than 0")
    for path, value in numbers_of(config):
        require_range(path, value, -LARGEST if path in MAY_BE_NEGATIVE else 0, LARGEST)
    norm, eps = getattr(config.backbone, "norm", "none"), getattr(config.backbone, "norm_eps", None)
    if eps == 0 and norm not in ("frozen_bn", "none"):  # fixed statistics, as in Detectron's files, need none
        raise ValueError(f"backbone.norm_eps is {eps}; expected more than 0 with backbone.norm={norm}")


def _settings_of(config: DetectorConfig, names: Mapping[str, Sequence[str]]) -> Iterator[tuple[str, object]]:
    """The path and value of each setting in `names` (part -> settings); parts that are off or unused are skipped."""
    for part, own in names.items():
        if not config.has_box_head and part.startswith("box"):
            continue
        settings = reduce(lambda parent, name: getattr(parent, name, None), part.split("."), config)
        for name in own if settings is not None else ():
            yield f"{part}.{name}", getattr(settings, name, None)  # a backbone has the settings of its kind


def _require_iou_order(config: DetectorConfig) -> None:
    """Raise ValueError if the IoU threshold for negatives is above the IoU threshold for positives."""
    if config.cascade is not None and config.cascade.ious:  # these replace box.sampling.positive_iou
        low, ious = config.box.sampling.min_negative_iou, config.cascade.ious
        if low > min(ious):
            raise ValueError(
                f"box.sampling has min_negative_iou={low} and cascade.ious is {list(ious)}; expected min_negative_iou "
                f"<= {min(ious)}, the lowest of these"
            )
    for part, sampling in _samplings(config).items():
        name = "negative_iou" if part == "rpn.sampling" else "min_negative_iou"
        low = getattr(sampling, name)
        if low > sampling.positive_iou and (part != "box.sampling" or config.cascade is None):
            raise ValueError(
                f"{part} has {name}={low} and positive_iou={sampling.positive_iou}; expected {name} <= positive_iou"
            )


def _require_positives(config: DetectorConfig) -> None:
    """Raise ValueError if a sample is too small for one positive box, although its fraction is above 0."""
    for part, sampling in _samplings(config).items():
        size, fraction = sampling.batch_size, sampling.positive_fraction
        if part == "fcis.sampling" and config.fcis is not None and config.fcis.ohem:
            continue  # every region is used, then those with the highest losses
        if fraction > 0 and sampling.max_positives < 1:
            raise ValueError(
                f"{part} has batch_size={size} and positive_fraction={fraction}, so no sample has a positive box; "
                "expected batch_size * positive_fraction >= 1: increase one of them"
            )


def _samplings(config: DetectorConfig) -> dict[str, SamplingConfig]:
    """The settings of the samples that the losses of the model are computed on, by their paths."""
    samplings: dict[str, SamplingConfig] = {"rpn.sampling": config.rpn.sampling}
    if config.fcis is not None:
        samplings["fcis.sampling"] = config.fcis.sampling
    elif config.has_box_head:
        samplings["box.sampling"] = config.box.sampling
    return samplings


def _require_beside_proposals(config: DetectorConfig) -> None:
    if config.rpn.legacy.objectness == "object_logit":
        raise ValueError(
            "rpn.legacy.objectness=object_logit sorts proposals by a logit that is not a probability, but "
            "with proposals_only=true the score of a proposal is a probability; set rpn.legacy.objectness=softmax or "
            "proposals_only=false"
        )
    for name in ("mask", "cascade", "keypoint"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"proposals_only=true builds the RPN alone, but a {name} head needs the second stage; set {name}=null "
                "or proposals_only=false"
            )
    if config.num_classes != 1:
        raise ValueError(
            f"num_classes is {config.num_classes}; expected 1 with proposals_only=true, which has no classes"
        )


def _require_heads(config: DetectorConfig) -> None:
    box, mask = config.box, config.mask
    if config.num_classes < 1:
        raise ValueError(f"num_classes is {config.num_classes}; expected 1 or more, without background")
    if box.class_weights and len(box.class_weights) != config.num_classes + 1:
        raise ValueError(
            f"box.class_weights has length {len(box.class_weights)}; expected {config.num_classes + 1}: one number per "
            f"class (num_classes is {config.num_classes}), then one for the background"
        )
    selection = box.selection
    if selection.nms == "soft_gaussian" and selection.soft_nms_sigma <= 0:
        raise ValueError(f"box.selection.soft_nms_sigma is {selection.soft_nms_sigma}; expected a number above 0")
    if mask is not None and mask.trunk == "res5" and box.trunk != "res5":
        raise ValueError(
            f"mask.trunk=res5 shares res5 of the box head, but box.trunk is {box.trunk}; set mask.trunk=convs"
        )
    if mask is not None and mask.trunk == "res5" and not mask.factory:
        for name in ("size", "aligned"):  # Detectron's files may differ in kind and sampling_ratio
            pooled, given = getattr(box.pooler, name), getattr(mask.pooler, name)
            if pooled != given:
                raise ValueError(
                    f"mask.trunk=res5 trains masks on the regions that box.pooler pools, but box.pooler.{name} is "
                    f"{pooled} and mask.pooler.{name} is {given}; set both to the same value"
                )
    for name, part in (("box", box), ("mask", mask), ("keypoint", config.keypoint)):
        if part is not None and part.pooler.kind == "image_affine" and config.fpn is not None:
            raise ValueError(
                f"{name}.pooler.kind=image_affine is defined for one map, but fpn gives several; set fpn=null or "
                f"{name}.pooler.kind=affine"
            )
    _require_trunks(config)


def _require_trunks(config: DetectorConfig) -> None:
    """Raise ValueError for layers of the RPN or a head that continue another backbone than that of `config`."""
    box = config.box
    if box.trunk == "mobilenet_v1" and config.backbone.kind != "mobilenet_v1":
        raise ValueError(
            f"box.trunk=mobilenet_v1 continues MobileNet v1, but the backbone is {config.backbone.kind}; set "
            "box.trunk=fc"
        )
    used: dict[str, BoxHeadConfig | MaskHeadConfig | KeypointHeadConfig | None]
    used = {"mask": config.mask, "keypoint": config.keypoint}
    if config.has_box_head:
        used["box"] = box
    trunks = {f"{name}.trunk": part.trunk for name, part in used.items() if part is not None and not part.factory}
    for name, value in {"rpn.head": config.rpn.head, **trunks}.items():
        if value == "fbnet" and config.backbone.kind != "fbnet":
            raise ValueError(
                f"{name}=fbnet continues D2Go's FBNet, but the backbone is {config.backbone.kind}; choose another "
                f"{name}"
            )
        if value in ("fbnet", "mobilenet_v1") and name != "rpn.head" and config.fpn is not None:
            other = "fc" if name == "box.trunk" else "convs"
            raise ValueError(
                f"{name}={value} continues the map of the backbone, but with an FPN the heads read its maps; set "
                f"{name}={other}, or fpn=null"
            )
    if config.rpn.head == "fbnet" and config.fpn is not None and config.fpn.channels % 8:
        raise ValueError(
            f"fpn.channels is {config.fpn.channels}; expected a multiple of 8 with rpn.head=fbnet, whose blocks have "
            "such numbers of channels"
        )
    resnet = config.backbone if isinstance(config.backbone, ResNetConfig) else None
    if box.trunk == "res5" and resnet is not None and config.fpn is not None:
        raise ValueError(
            "box.trunk=res5 continues a ResNet from res4, but with an FPN the heads read its maps; set box.trunk=fc, "
            "or fpn=null and backbone.stages=[2, 3, 4]"
        )
    if box.trunk == "res5" and resnet is not None and 5 in resnet.stages:
        raise ValueError(
            "box.trunk=res5 continues a ResNet from res4, but this backbone already has res5; set "
            "backbone.stages=[2, 3, 4], or box.trunk=fc"
        )
    if box.trunk == "res5" and resnet is not None and 4 not in resnet.stages:
        raise ValueError(
            f"box.trunk=res5 continues a ResNet from res4, but backbone.stages is {list(resnet.stages)}; set "
            "backbone.stages=[2, 3, 4], or box.trunk=fc"
        )


def _require_own_heads(config: DetectorConfig) -> None:
    factories = [name for name in ("box", "mask", "keypoint") if getattr(getattr(config, name), "factory", "")]
    for name in ("proposals_only", "fcis", "cascade"):
        if factories and getattr(config, name):
            fix = "proposals_only=false" if name == "proposals_only" else f"{name}=null"
            raise ValueError(
                f"{factories[0]}.factory makes your own {factories[0]} head, which {name} does not use; set {fix}"
            )


def _require_cascade(config: DetectorConfig) -> None:
    cascade, box = config.cascade, config.box
    if cascade is None:
        return
    lists = {"ious": cascade.ious, "delta_weights": cascade.delta_weights, "loss_weights": cascade.loss_weights}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1 or not cascade.ious:
        found = ", ".join(f"cascade.{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{found}; expected the same number in each list, one entry per stage")
    if box.trunk == "res5":
        raise ValueError(
            "a cascade has one head per stage, but box.trunk=res5 (C4) is one network that the box and mask heads "
            "share; set fpn={}, backbone.stages=[2, 3, 4, 5] and box.trunk=fc"
        )
    if box.trunk in ("fbnet", "mobilenet_v1"):
        raise ValueError(f"a cascade with box.trunk={box.trunk} is not supported; set box.trunk=fc")


def _require_beside_fcis(config: DetectorConfig) -> None:
    for name in ("mask", "cascade", "keypoint"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"FCIS predicts boxes, classes and masks itself and cannot be combined with a {name} head; set "
                f"{name}=null or fcis=null"
            )
    if config.fpn is not None:
        raise ValueError("FCIS reads c4 and c5 of the backbone and cannot be combined with an FPN; set fpn=null")
    if config.proposals_only:
        raise ValueError(
            "proposals_only=true builds the RPN alone, and FCIS has a second stage; set fcis=null or "
            "proposals_only=false"
        )
