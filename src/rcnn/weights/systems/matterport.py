"""matterport's Mask R-CNN (Keras, `.h5`): ResNet-50 or -101 with a pyramid, its layers by name.

Kernels lie height, width, in, out; every convolution has a bias, also before a norm, whose mean takes it here; the
heads' norms go into their layers. Boxes are y, x, height, width in units that end on the last pixel; background first.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from rcnn.models.config import (
    BOX_SAMPLING,
    RPN_SAMPLING,
    AnchorConfig,
    BoxHeadConfig,
    DetectorConfig,
    FPNConfig,
    InputConfig,
    LegacyConfig,
    LegacyRPNConfig,
    MaskHeadConfig,
    PoolerConfig,
    ProposalConfig,
    ResNetConfig,
    RPNConfig,
    SelectionConfig,
)
from rcnn.weights.readers.stored import shape_of
from rcnn.weights.systems.converted import Converted, class_names, few, require_fit, unplaced
from rcnn.weights.systems.tensorpack.settings import parse_settings

EPS = 1e-3  # Keras's, of every norm
NOWHERE = 100.0  # no decoded scale is cut
FIELDS = re.compile(r"(kernel|bias|gamma|beta|moving_mean|moving_variance)(?:_\d+)?(?::0)?")
# (theirs, ours) of layers with a kernel
LAYERS = (
    (r"conv1", r"backbone.stem.conv1"),
    (r"fpn_c(\d)p\1", r"fpn.lateral\1"),
    (r"fpn_p(\d)", r"fpn.output\1"),
    (r"rpn_conv_shared", r"rpn.convs.0"),
    (r"rpn_class_raw", r"rpn.objectness"),
    (r"rpn_bbox_pred", r"rpn.deltas"),
    (r"mrcnn_class_conv(\d)", r"box_head.trunk.fc\1"),
    (r"mrcnn_class_logits", r"box_head.logits"),
    (r"mrcnn_bbox_fc", r"box_head.deltas"),
    (r"mrcnn_mask_conv(\d)", r"mask_head.trunk.conv\1"),
    (r"mrcnn_mask_deconv", r"mask_head.deconv"),
    (r"mrcnn_mask", r"mask_head.logits"),
)
BLOCK = re.compile(r"res([2-5])([a-z])_branch(2a|2b|2c|1)")
BRANCHES = {"2a": "conv1", "2b": "conv2", "2c": "conv3", "1": "shortcut"}
NORM = re.compile(r"bn_conv1|bn[2-5][a-z]_branch(?:2a|2b|2c|1)|mrcnn_(?:class|mask)_bn\d")
LEFT = re.compile(r"(?:.*/)?(?:optimizer_weights|training|anchors)(?:/.*)?|.*(?:iterations|Variable)(?::0)?")
DEPTHS: dict[tuple[int, ...], Literal[50, 101]] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101}
# their Config's settings that a detector has, with their defaults for COCO
DEFAULTS: dict[str, Any] = {
    "IMAGE_MIN_DIM": 800, "IMAGE_MAX_DIM": 1024, "IMAGE_RESIZE_MODE": "square", "MEAN_PIXEL": [123.7, 116.8, 103.9],
    "RPN_ANCHOR_SCALES": [32, 64, 128, 256, 512], "RPN_ANCHOR_RATIOS": [0.5, 1, 2], "RPN_ANCHOR_STRIDE": 1,
    "RPN_NMS_THRESHOLD": 0.7, "RPN_TRAIN_ANCHORS_PER_IMAGE": 256, "PRE_NMS_LIMIT": 6000,
    "POST_NMS_ROIS_TRAINING": 2000, "POST_NMS_ROIS_INFERENCE": 1000, "POOL_SIZE": 7, "MASK_POOL_SIZE": 14,
    "TRAIN_ROIS_PER_IMAGE": 200, "ROI_POSITIVE_RATIO": 0.33, "DETECTION_MAX_INSTANCES": 100,
    "DETECTION_MIN_CONFIDENCE": 0.7, "DETECTION_NMS_THRESHOLD": 0.3, "RPN_BBOX_STD_DEV": [0.1, 0.1, 0.2, 0.2],
    "BBOX_STD_DEV": [0.1, 0.1, 0.2, 0.2],
}  # fmt: skip
DIFFERENCES = (
    "images are resized by OpenCV's bilinear rule, matterport's by scikit-image's, whose versions differ among "
    "themselves: pixels at the border of an image differ, others by half a grey level",
    "of two overlapping detections in the black border the better is chosen before it is cut off, there afterwards",
    "below a confidence of 0.5 a region may be several classes here; there it is its best one",
    "trained on, it samples and weighs as this library does, with batch norms fixed",
)


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are of matterport's Mask R-CNN."""
    layers = {layer for name in names if (layer := _layer(name)[0])}
    return {"rpn_conv_shared", "mrcnn_class_logits"} <= layers


def rename(layer: str) -> str | None:
    """Our name for a layer of theirs that has a kernel; None for one that has no counterpart here."""
    if found := BLOCK.fullmatch(layer):
        return f"backbone.res{found[1]}.{ord(found[2]) - ord('a')}.{BRANCHES[found[3]]}"
    for theirs, ours in LAYERS:
        if re.fullmatch(theirs, layer):
            return re.sub(theirs, ours, layer)
    return None


def from_matterport(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """matterport's `state`; `config_file` has its Config, as KEY=VALUE or as `config.display()` prints it.

    Raises ValueError that names `source` and the tensors or settings that have no place.
    """
    source = source or "the state dict"
    given, others = _read(config_file)
    layers: dict[str, dict[str, str]] = {}  # layer -> its field -> the tensor's name
    left, unknown = [], []
    for name in state:
        layer, field = _layer(name)
        if LEFT.fullmatch(name):
            left.append(name)
        elif not layer:
            unknown.append(name)
        else:
            layers.setdefault(layer, {})[field] = name
    if unknown:
        raise ValueError(f"{source} looks like matterport's, but has {unplaced(unknown)}")
    if bare := [layer for layer, fields in layers.items() if not NORM.fullmatch(layer) and "kernel" not in fields]:
        raise ValueError(f"{source} is not whole: layers without a kernel: {few(bare)}")
    config = _config({name: shape_of(state, name) for name in state}, layers, DEFAULTS | given, source)
    tensors: dict[str, Tensor] = {}
    for layer, fields in layers.items():
        if (ours := rename(layer)) is not None:
            norm = layers.get(_norm_of(layer), {})
            values = {field: state[name] for field, name in fields.items()}
            tensors |= _convolved(ours, values, {field: state[name] for field, name in norm.items()})
    require_fit(config, tensors, source)
    assumed = [f"{key}={DEFAULTS[key]!r}: matterport's setting for COCO" for key in _ASKED if key not in given]
    if others:
        assumed.append(f"settings that play no part here: {', '.join(others)}")
    return Converted(
        config=config,
        state=tensors,
        classes=class_names(config.num_classes),
        report=f"matterport's Mask R-CNN {config.name}, {len(tensors)} tensors, {config.num_classes} classes",
        system="matterport's Mask R-CNN",
        assumed=(*assumed, *DIFFERENCES),
        left=tuple(left),
    )


_ASKED = ("IMAGE_MIN_DIM", "IMAGE_MAX_DIM", "MEAN_PIXEL", "RPN_ANCHOR_SCALES", "DETECTION_MIN_CONFIDENCE")


def _layer(name: str) -> tuple[str, str]:
    """Layer and field of a data set's path: the innermost part that is a layer of theirs; empty where there is none."""
    *places, last = name.split("/")
    if field := FIELDS.fullmatch(last):
        for place in reversed(places):
            if rename(place) is not None or NORM.fullmatch(place):
                return place, field[1]
    return "", ""


def _norm_of(layer: str) -> str:
    """The norm that follows a layer; empty where none does."""
    if layer == "conv1":
        return "bn_conv1"
    if BLOCK.fullmatch(layer):
        return layer.replace("res", "bn", 1)
    return layer.replace("_conv", "_bn") if re.fullmatch(r"mrcnn_(class|mask)_conv\d", layer) else ""


def _convolved(ours: str, values: Mapping[str, Tensor], norm: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors of one layer with what follows it: `kernel` and `bias`, `gamma`, `beta` and the statistics."""
    weight = values["kernel"].float()
    weight = weight.permute(3, 2, 0, 1) if weight.ndim == 4 else weight.t()
    bias = values["bias"].float() if "bias" in values else torch.zeros(len(weight))
    if ours.startswith("backbone.") and norm:
        return {
            f"{ours}.weight": weight.contiguous(),
            f"{ours}.norm.weight": norm["gamma"].float(),
            f"{ours}.norm.bias": norm["beta"].float(),
            f"{ours}.norm.running_mean": norm["moving_mean"].float() - bias,
            f"{ours}.norm.running_var": norm["moving_variance"].float(),
        }
    if norm:
        scale = norm["gamma"].double() * (norm["moving_variance"].double() + EPS).rsqrt()
        weight = (weight.double() * scale[:, None, None, None]).float()
        bias = ((bias.double() - norm["moving_mean"].double()) * scale + norm["beta"].double()).float()
    if ours.startswith("box_head.trunk."):
        weight = weight.flatten(1)  # a convolution as large as its region: channel, height, width
    match ours:
        case "rpn.deltas":  # its deltas are divided by their deviations, ours are not
            deviations = weight.new_tensor([0.1, 0.1, 0.2, 0.2])
            weight, bias = (_across(value) for value in (weight, bias))
            weight = weight * deviations.repeat(len(weight) // 4)[:, None, None, None]
            bias = bias * deviations.repeat(len(bias) // 4)
        case "box_head.deltas":
            weight, bias = (_across(value)[4:] for value in (weight, bias))
        case "box_head.logits":
            weight, bias = weight.roll(-1, 0), bias.roll(-1, 0)
        case "mask_head.logits":
            weight, bias = weight[1:], bias[1:]
    return {f"{ours}.weight": weight.contiguous(), f"{ours}.bias": bias.contiguous()}


def _across(value: Tensor) -> Tensor:
    """Rows dy, dx, dh, dw as dx, dy, dw, dh."""
    return value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def _config(
    shapes: Mapping[str, tuple[int, ...]],
    layers: Mapping[str, Mapping[str, str]],
    get: Mapping[str, Any],
    source: str,
) -> DetectorConfig:
    """The detector that layers of these shapes are."""
    letters: dict[int, set[str]] = {2: set(), 3: set(), 4: set(), 5: set()}
    for layer in layers:
        if found := BLOCK.fullmatch(layer):
            letters[int(found[1])].add(found[2])
    blocks = tuple(len(stage) for stage in letters.values())
    needed = ("rpn_class_raw", "mrcnn_class_logits", "mrcnn_mask", "mrcnn_class_conv1", "fpn_p2")
    missing = [name for name in needed if name not in layers]
    if missing or 0 in blocks:
        raise ValueError(
            f"{source} is not whole: a ResNet of {blocks} blocks, without layers {few(missing) or 'missing'}"
        )
    kernels = {name: shapes[fields["kernel"]] for name, fields in layers.items() if "kernel" in fields}
    ratios = tuple(1 / float(ratio) for ratio in get["RPN_ANCHOR_RATIOS"])  # theirs are width over height
    if kernels["rpn_class_raw"][-1] != 2 * len(ratios):
        raise ValueError(f"{source} has {kernels['rpn_class_raw'][-1]} anchor scores; RPN_ANCHOR_RATIOS wants {ratios}")
    if get["IMAGE_RESIZE_MODE"] != "square" or get["RPN_ANCHOR_STRIDE"] != 1:
        raise ValueError(f"{source}: only IMAGE_RESIZE_MODE=square and RPN_ANCHOR_STRIDE=1 are supported")
    for key in ("RPN_BBOX_STD_DEV", "BBOX_STD_DEV"):
        if [float(value) for value in get[key]] != DEFAULTS[key]:
            raise ValueError(f"{source}: {key} is {get[key]}; only {DEFAULTS[key]} is supported")
    red, green, blue = (float(value) for value in get["MEAN_PIXEL"])
    return DetectorConfig(
        name=f"mask_rcnn_r{DEPTHS.get(blocks, 50)}_fpn",
        num_classes=kernels["mrcnn_class_logits"][-1] - 1,
        input=InputConfig(
            min_size=get["IMAGE_MIN_DIM"],
            max_size=get["IMAGE_MAX_DIM"],
            resize="opencv_float",
            size_rounding="factor_up",
            canvas=get["IMAGE_MAX_DIM"],
            pixel_mean=(red, green, blue),
            pixel_std=(1.0, 1.0, 1.0),
            divisor=64,
        ),
        backbone=ResNetConfig(
            depth=DEPTHS.get(blocks, 50),
            blocks=() if blocks in DEPTHS else blocks,
            stride_in_1x1=True,
            norm_eps=EPS,
            stem_pool="unpadded_ceil",  # TensorFlow's "same" pads even sides at the right and bottom alone
        ),
        fpn=FPNConfig(channels=kernels["fpn_p2"][-1]),
        rpn=RPNConfig(
            width=kernels["rpn_conv_shared"][-1],
            max_log_scale=NOWHERE,
            smooth_l1_beta=1.0,
            anchors=AnchorConfig(sizes=tuple((float(scale),) for scale in get["RPN_ANCHOR_SCALES"]), ratios=ratios),
            legacy=LegacyRPNConfig(objectness="softmax", normalizer="sampled", joint_levels=True),
            sampling=replace(RPN_SAMPLING, batch_size=get["RPN_TRAIN_ANCHORS_PER_IMAGE"]),
            proposals=ProposalConfig(
                nms_iou=get["RPN_NMS_THRESHOLD"],
                pre_nms_train=get["PRE_NMS_LIMIT"],
                pre_nms=get["PRE_NMS_LIMIT"],
                post_nms_train=get["POST_NMS_ROIS_TRAINING"],
                post_nms=get["POST_NMS_ROIS_INFERENCE"],
                min_size=-1.0,
            ),
        ),
        box=BoxHeadConfig(
            fc_width=kernels["mrcnn_class_conv1"][-1],
            max_log_scale=NOWHERE,
            append_ground_truth=False,
            smooth_l1_beta=1.0,
            score_threshold=get["DETECTION_MIN_CONFIDENCE"],
            pooler=PoolerConfig(kind="normalized", size=get["POOL_SIZE"]),
            sampling=replace(
                BOX_SAMPLING, batch_size=get["TRAIN_ROIS_PER_IMAGE"], positive_fraction=get["ROI_POSITIVE_RATIO"]
            ),
            selection=SelectionConfig(
                nms_iou=get["DETECTION_NMS_THRESHOLD"], max_detections=get["DETECTION_MAX_INSTANCES"]
            ),
        ),
        mask=MaskHeadConfig(
            width=kernels["mrcnn_mask"][-2],
            target="bitmap",
            pooler=PoolerConfig(kind="normalized", size=get["MASK_POOL_SIZE"]),
        ),
        legacy=LegacyConfig(boxes="pixel_centers"),
    )


def _read(config: str | Path | None) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Settings of theirs that a detector has, and the keys of the others. ValueError for a value of the wrong kind."""
    found = {} if config is None else parse_settings(config)
    known = {}
    for key, value in found.items():
        if key not in DEFAULTS:
            continue
        if isinstance(DEFAULTS[key], list) and isinstance(value, str):  # as numpy prints it: [0.1 0.1 0.2 0.2]
            value = [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", value)]
        kinds: dict[type, tuple[type, ...]] = {list: (list, tuple), float: (int, float), int: (int,), str: (str,)}
        if not isinstance(value, kinds[type(DEFAULTS[key])]) or value == []:
            raise ValueError(f"{config}: {key} is {value!r}; want such as {DEFAULTS[key]!r}")
        known[key] = value
    return known, tuple(key for key in found if key not in DEFAULTS)
