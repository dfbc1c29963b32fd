"""Starts a detector from the backbone of a checkpoint and its input settings; the heads start from random values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rcnn.commands import as_typed
from rcnn.models import Detector, DetectorConfig
from rcnn.models.config import ResNetConfig
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import Checkpoint
from rcnn.weights.differences import NORMS, mismatches, mismatches_text
from rcnn.weights.setting_texts import setting_values, value_text

COUNTER = "num_batches_tracked"
# settings that the weights were trained with and that no tensor shape shows: copied from the checkpoint
PIXELS = ("input.channel_order", "input.pixel_mean", "input.pixel_std")
CARRIED = {
    "resnet": (*PIXELS, "backbone.stride_in_1x1", "backbone.stem_pool", "backbone.padding", "backbone.norm_eps"),
    "timm": (*PIXELS, "backbone.pretrained"),
    "mobilenet": PIXELS,
}
# settings that decide the shapes of the weights: the model must have the same
SHAPED = {
    "resnet": ("backbone.depth", "backbone.blocks", "backbone.groups", "backbone.width_per_group"),
    "timm": ("backbone.name",),
    "mobilenet": (),
}


def adopt_backbone(
    config: DetectorConfig, checkpoint: Checkpoint, source: str, overrides: Sequence[str] = ()
) -> DetectorConfig:
    """`config` with the colors, strides and padding that the backbone in `checkpoint` was trained with.

    `overrides` are the user's KEY=VALUE settings, which `config` already contains. Raises ValueError, with the fix, if
    the two backbones are built differently or the user's values contradict the weights.
    """
    theirs, kind = checkpoint.config, config.backbone.kind
    if kind not in CARRIED and theirs.backbone.kind == kind:
        raise ValueError(
            f"{source}: --weights takes no backbone of kind {kind} alone. To start from all weights of the checkpoint, "
            f"train it: {as_typed('rcnn', 'train', source, '--data', 'DIR')}"
        )
    if kind not in CARRIED or theirs.backbone.kind != kind:
        raise ValueError(
            f"{source} has a backbone of kind {theirs.backbone.kind}, but {config.name} has kind {kind}; expected "
            "weights (--weights) of a ResNet for a ResNet, or of the same network"
        )
    ours, expected = setting_values(config), setting_values(theirs)
    if differ := [key for key in SHAPED[kind] if _network(ours[key]) != _network(expected[key])]:
        cure = " ".join(f"{key}={value_text(expected[key])}" for key in differ)
        raise ValueError(f"{source} has a different backbone than {config.name}: add {cure}, or use other weights")
    if isinstance(config.backbone, ResNetConfig) and isinstance(theirs.backbone, ResNetConfig):
        _require_norms(config.backbone, theirs.backbone, checkpoint, source)
    given = dict(one.split("=", 1) for one in overrides if "=" in one)
    for key in CARRIED[kind]:
        value = value_text(expected[key])
        if key in given and ours[key] != expected[key]:
            raise ValueError(
                f"{key}={given[key]}, but {source} was trained with {value} and does not work otherwise: "
                f"remove {key}, or give {key}={value}"
            )
    return override(config, [f"{key}={value_text(expected[key])}" for key in CARRIED[kind]])


def _network(value: object) -> object:
    """The network of a timm name, e.g. resnet50d of resnet50d.ra2_in1k; other values are returned unchanged."""
    return value.partition(".")[0] if isinstance(value, str) else value


def load_backbone(detector: Detector, checkpoint: Checkpoint, source: str) -> str:
    """Copy the backbone of `checkpoint` into `detector`; returns a line that accounts for every tensor.

    The head of a C4 detector contains the last stage of the ResNet: that stage is copied into the head. Raises
    ValueError that names tensors of the backbone that are missing or have another shape.
    """
    state = detector.state_dict()
    sources: dict[str, str] = {}  # name in the detector -> name in the checkpoint
    for name in state:
        part, within, rest = name.partition(".trunk.res5.")
        if name.startswith("backbone.") and not name.startswith("backbone.norms."):  # the detector adds these
            sources[name] = name
        elif within and part in ("box_head", "mask_head"):
            sources[name] = f"backbone.res5.{rest}"
    counters = [name for name in sources if name.endswith(COUNTER)]
    copied = {name: their for name, their in sources.items() if name not in counters}
    theirs = {their: checkpoint.state[their] for their in copied.values() if their in checkpoint.state}
    if problems := mismatches_text(mismatches({their: state[name] for name, their in copied.items()}, theirs)):
        raise ValueError(
            f"{source} does not fit the backbone of {detector.config.name}: {problems}. Use other weights (--weights)"
        )
    with torch.no_grad():
        for name, their in copied.items():
            state[name].copy_(checkpoint.state[their])
    used = set(copied.values())
    unused = sorted({_part(name) for name in checkpoint.state if name not in used and not name.endswith(COUNTER)})
    fresh = sorted({_part(name) for name in state if name not in sources})
    line = f"backbone: {len(copied)} tensors from {source}; new: {', '.join(fresh)}"
    return line + (f"; skipped: {', '.join(unused)}" if unused else "")


def _require_norms(ours: ResNetConfig, theirs: ResNetConfig, checkpoint: Checkpoint, source: str) -> None:
    if ours.norm == theirs.norm:
        return
    batch = ("frozen_bn", "bn", "sync_bn")
    if ours.norm not in batch or theirs.norm not in batch:
        raise ValueError(
            f"{source} has {NORMS[theirs.norm]}, the model {NORMS[ours.norm]}; these are not compatible: "
            f"add backbone.norm={theirs.norm}, or use weights that were trained with {NORMS[ours.norm]}"
        )
    if theirs.norm == "frozen_bn" and _folded(checkpoint.state):
        raise ValueError(
            f"{source} has batch-norm statistics that are folded into scale and shift (as in Caffe's files); they "
            f"cannot be trained as batch norm: remove backbone.norm={ours.norm}, or use torchvision's weights"
        )


def _folded(state: dict[str, Tensor]) -> bool:
    """Whether all norms have mean 0 and a constant variance, which never happens in training."""
    means = [value for name, value in state.items() if name.endswith("norm.running_mean")]
    variances = [value for name, value in state.items() if name.endswith("norm.running_var")]
    return bool(means) and all(not value.any() for value in means) and all(v.std() < 1e-6 for v in variances)


def _part(name: str) -> str:
    """The part that a tensor belongs to: a stage of the backbone, or a head."""
    first, second = (*name.split("."), "")[:2]
    return f"{first}.{second}" if first == "backbone" else first
