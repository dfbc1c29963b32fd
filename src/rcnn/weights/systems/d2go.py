"""D2Go's FBNetV3A detectors, exported to int8 and turned back into float32: Faster, Mask and Keypoint R-CNN.

The files hold the convolutions with their norms folded in, under Detectron2-like names, and beside them what each layer
and block is (`meta`, `blocks`) and the constants (`buffers`); all of these are checked against the network we build.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rcnn.models import DetectorConfig, build_detector, model_config
from rcnn.models.backbones.fbnet import TRUNK_CHANNELS, FBNetBlock, scaled
from rcnn.models.config import FBNetConfig
from rcnn.ops.anchors import cell_anchors
from rcnn.weights.systems.converted import Converted, class_names, require_fit, unnamed_keypoints, unplaced

BLOCK = r"fbnetv2_(\d+)_(\d+)\.(pw|dw|pwl)\.conv\.(weight|bias)"
HEADS = {
    "proposal_generator.rpn_head.rpn_feature.0.": "rpn.convs.",
    "roi_heads.box_head.roi_box_conv.0.": "box_head.trunk.",
    "roi_heads.mask_head.feature_extractor.0.": "mask_head.trunk.",
    "roi_heads.keypoint_head.feature_extractor.0.": "keypoint_head.trunk.",
}
OUTPUTS = {
    "proposal_generator.rpn_head.rpn_regressor.cls_logits.": "rpn.objectness.",
    "proposal_generator.rpn_head.rpn_regressor.bbox_pred.": "rpn.deltas.",
    "roi_heads.box_predictor.cls_score.": "box_head.logits.",
    "roi_heads.box_predictor.bbox_pred.": "box_head.deltas.",
    "roi_heads.mask_head.predictor.mask_fcn_logits.": "mask_head.logits.",
}
STEM = "backbone.body.trunk0.fbnetv2_0_0.conv."
# the keypoint head's last block
KEYPOINT_LOGITS = r"roi_heads\.keypoint_head\.predictor\.kps_score_lowres\.(pw|dw|pwl)\.conv\.(weight|bias)"


def is_d2go(names: Collection[str]) -> bool:
    """Whether tensors of these names are of a D2Go detector on FBNet."""
    return any(name.startswith("backbone.body.trunk0.fbnetv2_") for name in names)


def from_d2go(content: Mapping[str, Any], source: str = "") -> Converted:
    """The detector of a file's `content`: its tensors, and what it says of them.

    Raises ValueError that names `source` and the layer where it is not the network that we build.
    """
    source = source or "the file"
    state: Mapping[str, Tensor] = content["model"]
    names = _names(state, source)
    ours = {names[name]: value for name, value in state.items()}
    config = _config(ours, content.get("buffers", {}))
    require_fit(config, ours, source)
    _require_same_layers(config, names, content, source)
    count = config.num_classes
    report = f"D2Go {config.name}, {len(ours)} tensors, {count} classes; settings of its model zoo, 320 pixels"
    classes = ("person",) if config.keypoint is not None else class_names(count)
    return Converted(config=config, state=ours, classes=classes, report=report)


def _names(state: Mapping[str, Tensor], source: str) -> dict[str, str]:
    """Our name for each of theirs. The trunk's blocks, in stages there, are numbered through here."""
    trunk = [
        name.rpartition(".fbnetv2_")[0] + ".fbnetv2_" + _block(name) for name in state if name.startswith("backbone.")
    ]
    trunk = list(dict.fromkeys(block for block in trunk if not STEM.startswith(f"{block}.")))
    names, unknown = {}, []
    for name in state:
        found = re.fullmatch(rf"(.+\.){BLOCK}", name)
        output = next((prefix for prefix in OUTPUTS if name.startswith(prefix)), None)
        if name.startswith(STEM):
            names[name] = f"backbone.stem.{name.removeprefix(STEM)}"
        elif last := re.fullmatch(KEYPOINT_LOGITS, name):
            names[name] = f"keypoint_head.logits.{last[1]}.{last[2]}"
        elif output is not None:
            names[name] = OUTPUTS[output] + name.removeprefix(output)
        elif found and found[1] in HEADS:
            names[name] = f"{HEADS[found[1]]}{found[3]}.{found[4]}.{found[5]}"
        elif found and name.startswith("backbone.body.trunk"):
            block = trunk.index(f"{found[1]}fbnetv2_{found[2]}_{found[3]}")
            names[name] = f"backbone.blocks.{block}.{found[4]}.{found[5]}"
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"{source} looks like D2Go's, but has {unplaced(unknown)}")
    return names


def _block(name: str) -> str:
    return name.rpartition(".fbnetv2_")[2].split(".")[0]


def _config(state: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> DetectorConfig:
    masks = any(name.startswith("mask_head.") for name in state)
    keypoints = state.get("keypoint_head.logits.pwl.weight")
    kind = "keypoint" if keypoints is not None else "mask" if masks else "faster"
    config = model_config(f"{kind}_rcnn_fbnetv3a_c4")
    if keypoints is not None and config.keypoint is not None:
        config = replace(config, keypoint=unnamed_keypoints(config.keypoint, len(keypoints)))
    given = config.input
    if "pixel_mean" in buffers and "pixel_std" in buffers:
        given = replace(given, pixel_mean=_three(buffers["pixel_mean"]), pixel_std=_three(buffers["pixel_std"]))
    width = 0.75 if state["rpn.deltas.weight"].shape[1] == scaled(TRUNK_CHANNELS, 0.75) else 1.0
    return replace(
        config,
        num_classes=len(state["box_head.logits.weight"]) - 1,
        input=given,
        backbone=FBNetConfig(width=width),
    )


def _three(value: Tensor) -> tuple[float, float, float]:
    blue, green, red = (round(number, 4) for number in value.double().flatten().tolist())
    return blue, green, red


def _require_same_layers(
    config: DetectorConfig, names: dict[str, str], content: Mapping[str, Any], source: str
) -> None:
    """What the file says of its layers must be what our network does: shapes alone do not show a stride or a ReLU."""
    with torch.device("meta"):
        modules = dict(build_detector(config).named_modules())
    for theirs, said in content.get("meta", {}).items():
        if f"{theirs}.weight" not in names:
            continue
        layer = modules[names[f"{theirs}.weight"].removesuffix(".weight")]
        if isinstance(layer, nn.Conv2d):
            relu = getattr(layer, "relu", False)
            is_, want = (list(layer.stride), layer.groups, relu), (list(said["stride"]), said["groups"], said["relu"])
            if is_ != want:
                raise ValueError(f"{source}: {theirs} has stride, groups, ReLU {want}, the network we build {is_}")
    for theirs, said in content.get("blocks", {}).items():
        name = names.get(f"{theirs}.dw.conv.weight")
        block = modules[name.removesuffix(".dw.weight")] if name else None
        if isinstance(block, FBNetBlock) and (block.residual, block.upsample) != (said["res"], said["up"]):
            raise ValueError(f"{source}: block {theirs} is {said}, the network we build does otherwise")
    cell = content.get("buffers", {}).get("proposal_generator.anchor_generator.cell_anchors.0")
    ours = cell_anchors(config.rpn.anchors.sizes[0], config.rpn.anchors.ratios)
    if cell is not None and (cell.shape != ours.shape or (cell - ours).abs().max() > 0.01):
        raise ValueError(f"{source}: its anchors are not those of {config.name}: {cell.tolist()}")
