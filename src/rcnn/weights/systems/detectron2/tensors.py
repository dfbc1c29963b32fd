"""Detectron2's settings that the names and shapes of the tensors show.

All other settings are those of such networks in Detectron2's model zoo; they are reported as assumptions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.detectron2.zoo import C4, CASCADE, DC5, FPN, IMAGENET_STD, KEYPOINT, RPN
from rcnn.weights.systems.renaming import count
from rcnn.weights.systems.resnets import blocks_of, known_depth

ZOO = "Detectron2's model zoo"
# constants in files from before version 0.3
CELL_ANCHORS = r"proposal_generator\.anchor_generator\.cell_anchors\.\d+"
BUFFERS = rf"pixel_mean|pixel_std|{CELL_ANCHORS}"
Shapes = Mapping[str, tuple[int, ...]]
Choice = tuple[tuple[str, ...], Assumption]  # (settings of Detectron2, what is assumed)
Choices = list[Choice]
PIXELS = (("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"), ("input.pixel_mean", "input.pixel_std"))
ANCHORS = ("MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS")


def settings_of_tensors(shapes: Shapes, given: Mapping[str, Any], source: str) -> tuple[dict[str, Any], Choices]:
    """The settings of Detectron2's zoo for a network of such tensors, and the assumptions.

    `given`: settings of Detectron2 that the user gives; a setting that follows from one of them is derived from it.
    Raises ValueError that names `source` if the tensors do not belong to such a network.
    """
    has_fpn = any(name.startswith("backbone.fpn_") for name in shapes)
    has_heads = any(name.startswith("roi_heads.") for name in shapes)
    resnet = "backbone.bottom_up." if has_fpn else "backbone."  # start of the names of its tensors
    is_dc5 = not has_fpn and f"{resnet}res5.0.conv1.weight" in shapes
    res5_in_head = any(name.startswith("roi_heads.res5.") for name in shapes)  # C4
    settings = dict(FPN if has_fpn else DC5 if is_dc5 else C4)

    norm, assumed = _resnet_norm(shapes, resnet, given)
    resnet_settings, resnet_assumed = _resnet(
        shapes,
        resnet,
        res5="roi_heads." if res5_in_head else resnet,
        res5_may_be_missing=not has_heads,
        norm=norm,
        source=source,
    )
    settings |= resnet_settings
    assumed += resnet_assumed
    if has_fpn:
        settings |= {
            "MODEL.FPN.OUT_CHANNELS": _shape(shapes, "backbone.fpn_output2.weight", source)[0],
            "MODEL.FPN.NORM": _norm(shapes, "backbone.fpn_output2"),
        }
    settings |= _rpn(shapes, source)
    if has_heads:
        settings |= _heads(shapes, res5_in_head, source)
        pooling = ("box.pooler.kind", "box.pooler.aligned", "box.pooler.sampling_ratio")
        limits = ("box.score_threshold", "box.selection.nms_iou", "box.selection.max_detections")
        assumed.append(_zoo_choice("box pooling", (), pooling))
        assumed.append(
            _zoo_choice("detections", ("MODEL.ROI_HEADS.SCORE_THRESH_TEST", "MODEL.ROI_HEADS.NMS_THRESH_TEST"), limits)
        )
    else:
        settings |= RPN
        limits = ("rpn.proposals.post_nms", "rpn.proposals.nms_iou")
        assumed.append(_zoo_choice("proposals", ("MODEL.RPN.POST_NMS_TOPK_TEST",), limits))
    if is_dc5:
        assumed.append(_zoo_choice("res5", ("MODEL.RESNETS.RES5_DILATION",), ("backbone.res5_dilation",)))
    sides = ("INPUT.MIN_SIZE_TEST", "INPUT.MAX_SIZE_TEST")
    assumed += [
        _zoo_choice("anchors", ANCHORS, ("rpn.anchors.sizes", "rpn.anchors.ratios")),
        _zoo_choice("image size", sides, ("input.min_size", "input.max_size")),
        _zoo_choice("pixels", ("INPUT.FORMAT",), ("input.channel_order",)),
        _zoo_choice("pixels", *PIXELS),
    ]
    return settings, assumed


def buffer_settings(state: Mapping[str, Tensor], settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Settings that the buffers of older files contain, pixel statistics and anchors, and which buffers these are.

    Buffers without meaning (a deviation of 0, anchors without area) are ignored.
    """
    found: dict[str, Any] = {}
    used: list[str] = []
    for key, name in zip(PIXELS[0], ("pixel_mean", "pixel_std"), strict=True):
        if name in state and state[name].numel() == 3 and bool(state["pixel_std"].all() if "pixel_std" in state else 1):
            found[key] = [round(float(number), 4) for number in state[name].flatten()]
            used.append(name)
    cells = [state[name] for name in sorted(state) if re.fullmatch(CELL_ANCHORS, name)]
    rows = [_sizes_and_ratios(cell) for cell in cells if cell.ndim == 2 and cell.shape[1] == 4]
    known = [row for row in rows if row is not None]
    if cells and len(known) == len(cells) and all(ratios == known[0][1] for _, ratios in known):
        found |= {ANCHORS[0]: [sizes for sizes, _ in known], ANCHORS[1]: [known[0][1]]}
        used.append("cell_anchors")
    return found, used


def _sizes_and_ratios(cell: Tensor) -> tuple[list[float], list[float]] | None:
    """Sizes (outer) and ratios (inner) of the anchors (A, 4) xyxy of one cell; None if they are not such a grid."""
    width, height = (cell[:, 2:] - cell[:, :2]).double().unbind(1)
    if not bool((width > 0).all() and (height > 0).all()):
        return None
    ratios = list(dict.fromkeys(round(float(ratio), 3) for ratio in height / width))
    sizes = list(dict.fromkeys(round(math.sqrt(float(area)), 2) for area in width * height))
    return (sizes, ratios) if len(sizes) * len(ratios) == len(cell) else None


def _zoo_choice(what: str, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Choice:
    """The assumption that `what` is as in the zoo: settings `theirs` of Detectron2, which are `ours` in rcnn."""
    return theirs, Assumption(what, ZOO, ours)


def _resnet_norm(shapes: Shapes, prefix: str, given: Mapping[str, Any]) -> tuple[str, Choices]:
    """Detectron2's name for the norm of the ResNet, empty if it has none, and what is assumed.

    Group norm has no statistics, nor had the frozen batch norm of Detectron2's first versions. Files from before
    version 0.3 contain their anchors, so a file without anchors has group norm, and so has one with other group norms.
    """
    norm = _norm(shapes, f"{prefix}res4.0.conv1")
    if norm != "GN":
        return norm, []
    if "MODEL.RESNETS.NORM" in given:
        return str(given["MODEL.RESNETS.NORM"]), []
    others = "backbone.fpn_output2", "roi_heads.box_head.conv1", "roi_heads.box_head.0.conv1"
    if any(_norm(shapes, layer) == "GN" for layer in (*others, "roi_heads.mask_head.mask_fcn1")):
        return norm, []
    if any(re.fullmatch(CELL_ANCHORS, name) for name in shapes):
        norm, why = "FrozenBN", "a file from before version 0.3; if it has group norm: --config MODEL.RESNETS.NORM=GN"
    else:
        why = "no anchors in the file: version 0.3 or later; if frozen batch norm: --config MODEL.RESNETS.NORM=FrozenBN"
    assumption = Assumption("norms without means and variances", why, ("backbone.norm",))
    return norm, [(("MODEL.RESNETS.NORM",), assumption)]


def _resnet(
    shapes: Shapes, prefix: str, *, res5: str, res5_may_be_missing: bool, norm: str, source: str
) -> tuple[dict[str, Any], Choices]:
    """Depth, groups and strides of a ResNet with `norm`, and what is assumed.

    The names of its tensors start with `prefix`; those of res5, which an RPN on C4 does not have, with `res5`.
    """
    blocks = blocks_of(shapes, rf"{re.escape(prefix)}res([234])\.(\d+)\.conv3\.weight", (2, 3, 4))
    last_blocks = blocks_of(shapes, rf"{re.escape(res5)}res(5)\.(\d+)\.conv3\.weight", (5,))
    depth = known_depth(blocks if res5_may_be_missing and last_blocks == (0,) else blocks + last_blocks, source)
    out, inside = _shape(shapes, f"{prefix}res2.0.conv2.weight", source)[:2]
    groups = out // inside
    if not norm:
        raise ValueError(
            f"{source} has no norms in its ResNet, but all networks of {ZOO} have norms; expected a file "
            "from before the norms were folded"
        )
    settings: dict[str, Any] = {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": inside,
        "MODEL.RESNETS.NORM": norm,
        "MODEL.RESNETS.STRIDE_IN_1X1": groups == 1 and norm != "GN",
    }
    if norm == "SyncBN":
        is_stem_trained = f"{prefix}stem.conv1.norm.num_batches_tracked" in shapes
        settings["MODEL.BACKBONE.FREEZE_AT"] = 0 if is_stem_trained else 2
        # trained from scratch; those trained with large-scale jitter have two convolutions in the RPN, with other names
        if is_stem_trained and "proposal_generator.rpn_head.conv.weight" in shapes:
            settings |= IMAGENET_STD | {"MODEL.RESNETS.STRIDE_IN_1X1": False}
    if groups > 1:
        settings |= IMAGENET_STD
    stride = f"stride in the {'1x1' if settings['MODEL.RESNETS.STRIDE_IN_1X1'] else '3x3'} convolutions"
    return settings, [
        _zoo_choice("frozen stages in training", ("MODEL.BACKBONE.FREEZE_AT",), ("backbone.frozen_stages",)),
        _zoo_choice(stride, ("MODEL.RESNETS.STRIDE_IN_1X1",), ("backbone.stride_in_1x1",)),
    ]


def _norm(shapes: Shapes, layer: str) -> str:
    """Detectron2's name for the norm of a layer; empty if it has none."""
    if f"{layer}.norm.weight" not in shapes:
        return ""
    if f"{layer}.norm.running_mean" not in shapes:
        return "GN"
    return "SyncBN" if f"{layer}.norm.num_batches_tracked" in shapes else "FrozenBN"


def _rpn(shapes: Shapes, source: str) -> dict[str, Any]:
    """The widths of the RPN's convolutions; -1: as many channels as the map has."""
    head = "proposal_generator.rpn_head."
    _shape(shapes, f"{head}objectness_logits.weight", source)
    several = sorted(name for name in shapes if re.fullmatch(rf"{re.escape(head)}conv\.conv\d+\.weight", name))
    out, inside = _shape(shapes, several[0] if several else f"{head}conv.weight", source)[:2]
    return {"MODEL.RPN.CONV_DIMS": [-1 if out == inside else out] * max(1, len(several))}


def _heads(shapes: Shapes, res5_in_head: bool, source: str) -> dict[str, Any]:
    """Classes, box head or cascade, mask head and keypoint head."""
    is_cascade = any(re.match(r"roi_heads\.box_predictor\.\d+\.", name) for name in shapes)
    stage = "0." if is_cascade else ""
    predictor = f"roi_heads.box_predictor.{stage}"
    classes = _shape(shapes, f"{predictor}cls_score.weight", source)[0] - 1
    has_four_deltas = _shape(shapes, f"{predictor}bbox_pred.weight", source)[0] == 4
    settings: dict[str, Any] = {
        "MODEL.ROI_HEADS.NUM_CLASSES": classes,
        # with one class, there are four deltas in both cases
        "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": has_four_deltas and (classes > 1 or is_cascade),
    }
    if not res5_in_head:
        settings |= _box_layers(shapes, f"roi_heads.box_head.{stage}", source)
    if is_cascade:
        settings |= CASCADE
        _require_three_stages(shapes, source)
    if any(name.startswith("roi_heads.mask_head.") for name in shapes):
        settings |= _mask_head(shapes, classes, source)
    if any(name.startswith("roi_heads.keypoint_head.") for name in shapes):
        settings |= _keypoint_head(shapes, classes, source)
    return settings


def _box_layers(shapes: Shapes, prefix: str, source: str) -> dict[str, Any]:
    """The convolutions and fully connected layers of a box head; the names of its tensors start with `prefix`."""
    convs = count(shapes, rf"{re.escape(prefix)}conv(\d+)\.weight")
    fcs = count(shapes, rf"{re.escape(prefix)}fc(\d+)\.weight")
    settings: dict[str, Any] = {"MODEL.ROI_BOX_HEAD.NUM_CONV": convs, "MODEL.ROI_BOX_HEAD.NUM_FC": fcs}
    channels = _shape(shapes, "proposal_generator.rpn_head.objectness_logits.weight", source)[1]
    if convs:
        channels = _shape(shapes, f"{prefix}conv1.weight", source)[0]
        settings["MODEL.ROI_BOX_HEAD.CONV_DIM"] = channels
        settings["MODEL.ROI_BOX_HEAD.NORM"] = _norm(shapes, f"{prefix}conv1")
    if fcs:
        out, inside = _shape(shapes, f"{prefix}fc1.weight", source)
        settings["MODEL.ROI_BOX_HEAD.FC_DIM"] = out
        settings["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"] = round((inside / channels) ** 0.5)
    return settings


def _require_three_stages(shapes: Shapes, source: str) -> None:
    """Raise ValueError for a cascade with another number of stages than those of the zoo."""
    stages = count(shapes, r"roi_heads\.box_predictor\.(\d+)\.cls_score\.weight")
    if stages != 3:
        raise ValueError(
            f"{source} is a cascade of {stages} stages; their IoU thresholds are not in the file: give its YAML "
            "with config (--config)"
        )


def _mask_head(shapes: Shapes, classes: int, source: str) -> dict[str, Any]:
    outputs, channels = _shape(shapes, "roi_heads.mask_head.predictor.weight", source)[:2]
    return {
        "MODEL.MASK_ON": True,
        "MODEL.ROI_MASK_HEAD.NUM_CONV": count(shapes, r"roi_heads\.mask_head\.mask_fcn(\d+)\.weight"),
        "MODEL.ROI_MASK_HEAD.CONV_DIM": channels,
        "MODEL.ROI_MASK_HEAD.NORM": _norm(shapes, "roi_heads.mask_head.mask_fcn1"),
        "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK": outputs == 1 and classes > 1,
    }


def _keypoint_head(shapes: Shapes, classes: int, source: str) -> dict[str, Any]:
    head = "roi_heads.keypoint_head."
    width = _shape(shapes, f"{head}conv_fcn1.weight", source)[0]
    return KEYPOINT | {
        "MODEL.ROI_HEADS.NUM_CLASSES": classes,
        "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS": _shape(shapes, f"{head}score_lowres.weight", source)[1],
        "MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS": [width] * count(shapes, rf"{re.escape(head)}conv_fcn(\d+)\.weight"),
    }


def _shape(shapes: Shapes, name: str, source: str) -> tuple[int, ...]:
    """The shape of weight `name`. Raises ValueError if it is missing or has the wrong number of dimensions."""
    if name not in shapes:
        raise ValueError(f"{source} looks like a file of Detectron2, but {name} is missing: is the file complete?")
    shape = shapes[name]
    dims = 2 if re.search(r"\.(cls_score|bbox_pred|fc\d+)\.", name) else 4
    if len(shape) != dims or 0 in shape:
        raise ValueError(f"{source}: {name} has shape {shape}; expected {dims} dimensions, none of them empty")
    return shape
