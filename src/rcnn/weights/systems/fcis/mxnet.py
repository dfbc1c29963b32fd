"""FCIS of its authors (MXNet's `.params`): ResNet, RPN and maps under MXNet's names.

`fcis_bbox_{weight,bias}_test` are the box maps times the deltas' standard deviation, which the test graph multiplies by
again: they are left behind, and `fcis.delta_weights` does it once.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from rcnn.models.zoo.fcis import fcis_r101_coco
from rcnn.weights.systems.converted import Converted, require_fit, unplaced
from rcnn.weights.systems.fcis.names import XYXY, Layout, config_of, converted_tensor, names_of

LAYOUT = Layout(coordinates=XYXY, interleaved=False)
HEADS = {
    "conv1": "backbone.stem.conv1", "bn_conv1": "backbone.stem.conv1",
    "rpn_conv_3x3": "rpn.convs.0", "rpn_cls_score": "rpn.objectness", "rpn_bbox_pred": "rpn.deltas",
    "conv_new_1": "box_head.reduce", "fcis_cls_seg": "box_head.maps", "fcis_bbox": "box_head.deltas",
}  # fmt: skip
BLOCK = re.compile(r"(?:res|bn)(\d)([a-z])(\d*)_branch(1|2[abc])")  # res4b7_branch2a: block 7; res5c: block 2
BRANCHES = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
VALUES = {
    "weight": "weight", "bias": "bias", "gamma": "norm.weight", "beta": "norm.bias",
    "moving_mean": "norm.running_mean", "moving_var": "norm.running_var",
}  # fmt: skip
LEFT = re.compile(r"fcis_bbox_(weight|bias)_test")


def recognises(names: Collection[str]) -> bool:
    """Whether tensors of these names are of the authors' FCIS."""
    return "fcis_cls_seg_weight" in {_plain(name) for name in names}


def from_mxnet_fcis(state: Mapping[str, Tensor], config_file: str | Path | None = None, source: str = "") -> Converted:
    """MXNet's `state`, `arg:` and `aux:` before its names or not.

    Raises ValueError that names `source` and the tensors that have no place.
    """
    source = source or "the state dict"
    left = tuple(name for name in state if LEFT.fullmatch(_plain(name)))
    ours = {name: rename(name) for name in state if name not in left}
    if unknown := [name for name, our in ours.items() if our is None]:
        raise ValueError(f"{source} looks like MXNet's FCIS, but has {unplaced(unknown)}")
    if len(set(ours.values())) != len(ours):
        raise ValueError(f"{source} has tensors twice, as arg: and as aux:, or with and without these words")
    config, assumed = config_of(state, rename, fcis_r101_coco(), "fcis_r101_voc", source)
    tensors = {our: converted_tensor(our, state[name], LAYOUT, source) for name, our in ours.items() if our is not None}
    require_fit(config, tensors, source)
    return Converted(
        config=config,
        state=tensors,
        classes=names_of(config.num_classes),
        report=f"MXNet's FCIS {config.name}, {len(tensors)} tensors, {config.num_classes} classes",
        system="MXNet's FCIS",
        assumed=assumed,
        left=left,
    )


def rename(name: str) -> str | None:
    """Our name for MXNet's; None for one that has no counterpart here, or that is left behind."""
    plain = _plain(name)
    for ending, ours in VALUES.items():
        layer = plain.removesuffix(f"_{ending}")
        if layer == plain:
            continue
        if layer in HEADS:
            return f"{HEADS[layer]}.{ours}"
        if block := BLOCK.fullmatch(layer):
            index = int(block[3]) if block[3] else ord(block[2]) - ord("a")
            return f"backbone.res{block[1]}.{index}.{BRANCHES[block[4]]}.{ours}"
    return None


def _plain(name: str) -> str:
    return name.removeprefix("arg:").removeprefix("aux:")
