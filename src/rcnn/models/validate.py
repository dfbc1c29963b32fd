"""Configs that cannot be, each with the reason. What one part alone refuses it says itself."""

from __future__ import annotations

from rcnn.models.config import DetectorConfig, ResNetConfig

# counts and sides of which nothing can be built when they are 0; a part that is None is passed over
AT_LEAST_ONE = {
    "input": ("min_size", "max_size"),
    "fpn": ("channels",),
    "rpn": ("batch_size", "pre_nms_train", "pre_nms", "post_nms_train", "post_nms"),
    "box": ("conv_width", "fc_width", "roi_size", "batch_size", "max_detections"),
    "mask": ("width", "roi_size"),
    "keypoint": ("width", "roi_size"),
    "fcis": ("width", "groups", "roi_size", "batch_size", "max_detections"),
}
PARTS_OF_ONE = {"rpn": ("nms_iou",), "box": ("nms_iou",), "mask": ("vote_iou",), "fcis": ("nms_iou", "vote_iou")}


def refuse(config: DetectorConfig) -> None:
    """Raise a ValueError where parts of `config` cannot go together: what they are, why, and what to do."""
    _refuse_numbers(config)
    if config.proposals_only:
        _refuse_beside_proposals(config)
    _refuse_heads(config)
    if config.boxes != "half_open" and config.cascade is not None:
        raise ValueError(
            f"boxes={config.boxes} is of systems without a cascade, and nothing says how theirs would be: use "
            "boxes=half_open, or cascade=null"
        )
    if config.cascade is not None:
        _refuse_cascade(config)
    if config.fcis is not None:
        _refuse_beside_fcis(config)


def _refuse_numbers(config: DetectorConfig) -> None:
    unused = {"box"} if config.proposals_only or config.fcis is not None else set()
    for part, names in AT_LEAST_ONE.items():
        for name in () if part in unused else names:
            if getattr(getattr(config, part), name, 1) < 1:
                raise ValueError(f"{part}.{name} is {getattr(getattr(config, part), name)}; wanted 1 or more")
    for part, names in PARTS_OF_ONE.items():
        for name in () if part in unused else names:
            if not 0 <= getattr(getattr(config, part), name, 0) <= 1:
                raise ValueError(f"{part}.{name} is {getattr(getattr(config, part), name)}; wanted 0 to 1")


def _refuse_beside_proposals(config: DetectorConfig) -> None:
    for name in ("mask", "cascade", "keypoint"):
        if getattr(config, name) is not None:
            raise ValueError(
                f"proposals_only builds the RPN alone, and a {name} head needs the second stage: use {name}=null, or "
                "proposals_only=false"
            )
    if config.num_classes != 1:
        raise ValueError(f"proposals_only finds objects of whatever class: num_classes={config.num_classes}, wanted 1")


def _refuse_heads(config: DetectorConfig) -> None:
    box, mask = config.box, config.mask
    if config.num_classes < 1:
        raise ValueError(f"num_classes is {config.num_classes}; wanted 1 or more, without background")
    if box.class_weights and len(box.class_weights) != config.num_classes + 1:
        raise ValueError(
            f"box.class_weights has {len(box.class_weights)} numbers for {config.num_classes} classes; wanted "
            f"{config.num_classes + 1}, one for each class in order and the last for background"
        )
    if not 0 <= box.background_iou <= box.positive_iou:
        raise ValueError(
            f"box.background_iou={box.background_iou} and positive_iou={box.positive_iou}: what overlaps an object "
            "less than the one is not used, more than the other is that object; wanted 0 <= background <= positive"
        )
    if box.nms == "soft_gaussian" and box.soft_nms_sigma <= 0:
        raise ValueError(f"box.soft_nms_sigma is {box.soft_nms_sigma}: scores are divided by it; wanted above 0")
    if mask is not None and mask.features == "res5" and box.features != "res5":
        raise ValueError(
            f"mask.features=res5 shares the box head's res5; box.features is {box.features}: use mask.features=convs"
        )
    resnet = config.backbone if isinstance(config.backbone, ResNetConfig) else None
    if box.features == "res5" and resnet is not None and config.fpn is not None:
        raise ValueError(
            "box.features=res5 continues a ResNet from res4, and a pyramid gives maps of its own: use box.features=fc, "
            "or fpn=null and backbone.stages=[2, 3, 4]"
        )
    if box.features == "res5" and resnet is not None and 5 in resnet.stages:
        raise ValueError(
            "box.features=res5 continues a ResNet from res4, and this backbone has its own res5 before it: use "
            "backbone.stages=[2, 3, 4], or box.features=fc"
        )


def _refuse_cascade(config: DetectorConfig) -> None:
    cascade, box = config.cascade, config.box
    if cascade is None:
        return
    lists = {"ious": cascade.ious, "delta_weights": cascade.delta_weights, "loss_weights": cascade.loss_weights}
    lengths = {name: len(values) for name, values in lists.items()}
    if len(set(lengths.values())) != 1 or not cascade.ious:
        told = ", ".join(f"cascade.{name} has {length}" for name, length in lengths.items())
        raise ValueError(f"{told}: wanted one of each for every stage")
    if box.features == "res5":
        raise ValueError(
            "a cascade has a whole head for each stage, and box.features=res5 (C4) is one network that the box and "
            "mask heads share: use fpn={}, backbone.stages=[2, 3, 4, 5] and box.features=fc"
        )
    if box.features == "fbnet":
        raise ValueError("a cascade of D2Go's light heads exists nowhere: use box.features=fc")


def _refuse_beside_fcis(config: DetectorConfig) -> None:
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
