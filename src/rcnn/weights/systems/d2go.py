"""D2Go's FBNetV3A detectors (dsmask, C4): Faster, Mask and Keypoint R-CNN.

There are two kinds of files, with names similar to Detectron2's. Files of the model zoo, written by training, have
batch norms, which are folded into the convolutions here. Files that were exported to int8 and converted back to float32
have folded norms, a description of each layer and block (`meta`, `blocks`) and the constants (`buffers`); all of these
are compared with the network that we build.
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
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.classes import class_names, unnamed_keypoints
from rcnn.weights.systems.converted import Assumption
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Plan, System, all_of

LAYER = r"(conv|bn)\.(.+)"  # convolution and batch norm of a layer
BLOCK = rf"(pw|dw|pwl)\.{LAYER}"
STEM = "backbone.body.trunk0.fbnetv2_0_0"
TRUNK = rf"(backbone\.body\.trunk\d+\.fbnetv2_\d+_\d+)\.{BLOCK}"
NORM = ".norm."
NORM_EPS = 1e-5  # PyTorch's default, which D2Go keeps
KEYPOINT_STD = (57.375, 57.12, 58.395)  # pixel_std (BGR) of D2Go's keypoint_rcnn_fbnetv3a_dsmask_C4.yaml


def rules(names: Collection[str]) -> Rules:
    """D2Go's names -> ours. D2Go numbers the blocks of the trunk per stage, rcnn consecutively."""
    found = [block[1] for name in names if (block := re.fullmatch(TRUNK, name))]
    numbers = {block: str(number) for number, block in enumerate(dict.fromkeys(found))}
    return Rules(
        (
            (rf"{re.escape(STEM)}\.{LAYER}", "backbone.stem.{1:layer}{2}"),
            (TRUNK, "backbone.blocks.{1:number}.{2}.{3:layer}{4}"),
            (rf"proposal_generator\.rpn_head\.rpn_feature\.0\.fbnetv2_\d+_(\d+)\.{BLOCK}",
             "rpn.convs.{1}.{2}.{3:layer}{4}"),
            (r"proposal_generator\.rpn_head\.rpn_regressor\.cls_logits\.(.+)", "rpn.objectness.{1}"),
            (r"proposal_generator\.rpn_head\.rpn_regressor\.bbox_pred\.(.+)", "rpn.deltas.{1}"),
            (rf"roi_heads\.box_head\.roi_box_conv\.0\.fbnetv2_\d+_(\d+)\.{BLOCK}",
             "box_head.trunk.{1}.{2}.{3:layer}{4}"),
            (rf"roi_heads\.(mask|keypoint)_head\.feature_extractor\.0\.fbnetv2_\d+_(\d+)\.{BLOCK}",
             "{1}_head.trunk.{2}.{3}.{4:layer}{5}"),
            (r"roi_heads\.box_predictor\.cls_score\.(.+)", "box_head.logits.{1}"),
            (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", "box_head.deltas.{1}"),
            (r"roi_heads\.mask_head\.predictor\.mask_fcn_logits\.(.+)", "mask_head.logits.{1}"),
            (rf"roi_heads\.keypoint_head\.predictor\.kps_score_lowres\.{BLOCK}",
             "keypoint_head.logits.{1}.{2:layer}{3}"),
        ),
        words={"number": numbers, "layer": {"conv": "", "bn": NORM.removeprefix(".")}},
        skip=r"pixel_mean|pixel_std|proposal_generator\.anchor_generator\..+",
    )  # fmt: skip


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a D2Go file. Raises ValueError that names a layer that differs from the network that we build."""
    placed = rules(found.state.keys()).place(found.state, found.source, SYSTEM.name)
    buffers = found.extras.get("buffers", {})
    config = _config({our: found.shape(name) for name, our in placed.ours.items()}, buffers)
    _require_same_layers(config, placed.ours, found.extras, found.source)
    trained = any(NORM in our for our in placed.ours.values())
    pixels = Assumption("pixels", "D2Go's config files", ("input.pixel_mean", "input.pixel_std"))
    return Plan(
        config=config,
        placed=placed,
        complete=fold_norms if trained else lambda state, config: state,
        assumed=() if "pixel_std" in buffers else (pixels,),
        classes=("person",) if config.keypoint is not None else class_names(config.num_classes),
        summary="settings of its model zoo, 320 pixels",
    )


def fold_norms(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """`state` with batch norms folded into their convolutions; convolutions without a bias get one of zeros."""
    folded = {name: value for name, value in state.items() if NORM not in name}
    for name, weight in list(folded.items()):
        layer = name.removesuffix(".weight")
        if layer == name:
            continue
        bias = folded.setdefault(f"{layer}.bias", torch.zeros(len(weight)))
        if (variance := state.get(f"{layer}{NORM}running_var")) is not None:
            scale, shift, mean = (state[f"{layer}{NORM}{part}"] for part in ("weight", "bias", "running_mean"))
            scale = scale / (variance + NORM_EPS).sqrt()
            folded[name] = weight * scale[:, None, None, None]
            folded[f"{layer}.bias"] = shift + (bias - mean) * scale
    return folded


def _config(shapes: Mapping[str, tuple[int, ...]], buffers: Mapping[str, Tensor]) -> DetectorConfig:
    masks = any(name.startswith("mask_head.") for name in shapes)
    keypoints = shapes.get("keypoint_head.logits.pwl.weight")
    kind = "keypoint" if keypoints is not None else "mask" if masks else "faster"
    config = model_config(f"{kind}_rcnn_fbnetv3a_c4")
    if keypoints is not None and config.keypoint is not None:
        config = replace(config, keypoint=unnamed_keypoints(config.keypoint, keypoints[0]))
    given = replace(config.input, pixel_std=KEYPOINT_STD) if kind == "keypoint" else config.input
    if "pixel_mean" in buffers and "pixel_std" in buffers:
        given = replace(given, pixel_mean=_three(buffers["pixel_mean"]), pixel_std=_three(buffers["pixel_std"]))
    width = 0.75 if shapes["rpn.deltas.weight"][1] == scaled(TRUNK_CHANNELS, 0.75) else 1.0
    return replace(
        config,
        num_classes=shapes["box_head.logits.weight"][0] - 1,
        input=given,
        backbone=FBNetConfig(width=width),
    )


def _three(value: Tensor) -> tuple[float, float, float]:
    """The three numbers of `value`, in its order: blue, green, red."""
    blue, green, red = (round(number, 4) for number in value.double().flatten().tolist())
    return blue, green, red


def _require_same_layers(config: DetectorConfig, names: dict[str, str], extras: Mapping[str, Any], source: str) -> None:
    """Raise ValueError unless the layers have the strides, groups and ReLUs that the file describes."""
    with torch.device("meta"):
        modules = dict(build_detector(config).named_modules())
    for theirs, given in extras.get("meta", {}).items():
        if f"{theirs}.weight" not in names:
            continue
        layer = modules[names[f"{theirs}.weight"].removesuffix(".weight")]
        if isinstance(layer, nn.Conv2d):
            relu = getattr(layer, "relu", False)
            ours, expected = (
                (list(layer.stride), layer.groups, relu),
                (list(given["stride"]), given["groups"], given["relu"]),
            )
            if ours != expected:
                raise ValueError(
                    f"{source}: {theirs} has stride, groups, ReLU {expected}; expected {ours} as in FBNetV3A, the only "
                    "network of D2Go that rcnn supports"
                )
    for theirs, given in extras.get("blocks", {}).items():
        name = names.get(f"{theirs}.dw.conv.weight")
        block = modules[name.removesuffix(".dw.weight")] if name else None
        if isinstance(block, FBNetBlock) and (block.residual, block.upsample) != (given["res"], given["up"]):
            expected = {"res": block.residual, "up": block.upsample}
            raise ValueError(
                f"{source}: block {theirs} is {given}; expected {expected} as in FBNetV3A, the only network of D2Go "
                "that rcnn supports"
            )
    cell = extras.get("buffers", {}).get("proposal_generator.anchor_generator.cell_anchors.0")
    cells = cell_anchors(config.rpn.anchors.sizes[0], config.rpn.anchors.ratios)
    if cell is not None and (cell.shape != cells.shape or (cell - cells).abs().max() > 0.01):
        raise ValueError(f"{source} has the anchors {cell.tolist()}; expected those of {config.name}, {cells.tolist()}")


SYSTEM = System(
    name="D2Go",
    files=".pth, .pt of FBNetV3A detectors (dsmask, C4)",
    recognises=all_of(r"backbone\.body\.trunk0\.fbnetv2_.+"),
    read=read,
)
