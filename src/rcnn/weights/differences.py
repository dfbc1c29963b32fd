"""Explains why weights do not fit a detector, and which settings fix it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from rcnn.data.messages import counted, few
from rcnn.models import DetectorConfig
from rcnn.weights.setting_texts import setting_values, value_text

NORMS = {"gn": "group norm", "frozen_bn": "frozen batch norm", "bn": "batch norm", "sync_bn": "batch norm",
         "ln": "layer norm", "none": "no norm"}  # fmt: skip
# settings that decide which layers exist and their sizes
LAYERS = (
    "backbone.kind", "backbone.depth", "backbone.blocks", "backbone.groups", "backbone.width_per_group",
    "backbone.width", "backbone.widths", "backbone.stem_width", "backbone.name", "backbone.stages", "backbone.norm",
    "fpn.channels", "fpn.norm", "fpn.conv_bias", "rpn.anchors.sizes", "rpn.anchors.ratios", "rpn.convs",
    "rpn.width", "rpn.legacy.objectness", "rpn.head", "box.trunk", "box.convs", "box.conv_width", "box.norm",
    "box.fcs", "box.fc_width", "box.pooler.size", "box.class_agnostic", "cascade.ious", "cascade.mask_heads",
    "mask.trunk", "mask.convs", "mask.width", "mask.norm", "mask.class_agnostic", "keypoint.names", "keypoint.convs",
    "keypoint.width",
)  # fmt: skip


def different_layers(theirs: DetectorConfig, ours: DetectorConfig) -> list[str]:
    """Differences between the layers of two detectors, each with the setting that makes `ours` equal to `theirs`."""
    a, b = setting_values(theirs), setting_values(ours)
    lines = []
    for key in LAYERS:
        if key not in a or key not in b or a[key] == b[key]:
            continue
        if key.endswith(".norm"):
            what, in_a, in_b = f"{key.split('.')[0]}:", NORMS[str(a[key])], NORMS[str(b[key])]
        else:
            what, in_a, in_b = f"{key} is", value_text(a[key]), value_text(b[key])
        lines.append(f"{what} {in_a} in the checkpoint, {in_b} in the detector (add {key}={value_text(a[key])})")
    return lines


def different_tensors(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Differences that names and shapes show: another norm, another number of classes, a missing part."""
    lines = []
    for part in sorted({name.split(".")[0] for name in expected} & {name.split(".")[0] for name in given}):
        ours, theirs = (
            _norm({n: v for n, v in state.items() if n.startswith(f"{part}.")}) for state in (expected, given)
        )
        if ours != theirs:
            lines.append(f"its {part} has {theirs}, the detector's has {ours}")
    logits = [
        name for name in expected if name.startswith("box_head.") and name.endswith("logits.weight") and name in given
    ]
    counts = {(len(given[name]) - 1, len(expected[name]) - 1) for name in logits}
    for theirs_count, ours_count in sorted(counts):
        if theirs_count != ours_count:
            lines.append(
                f"it has {counted(theirs_count, 'class')}, the detector has {ours_count} (`rcnn train CHECKPOINT` "
                "replaces the heads to match the classes of a data set)"
            )
    heads = {name.split(".")[0] for name in expected} ^ {name.split(".")[0] for name in given}
    lines += [
        f"only {'the detector' if any(n.startswith(h) for n in expected) else 'it'} has a {h}" for h in sorted(heads)
    ]
    return lines


def mismatches(expected: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """How the tensors `given` differ from those `expected`: the kind of problem -> names of tensors."""
    return {
        "missing": [name for name in expected if name not in given],
        "unexpected": [name for name in given if name not in expected],
        "of another shape": [
            f"{name} {tuple(given[name].shape)} (expected {tuple(value.shape)})"
            for name, value in expected.items()
            if name in given and given[name].shape != value.shape
        ],
    }


def mismatches_text(problems: Mapping[str, list[str]], count: int = 6) -> str:
    """`problems` as a message, with up to `count` names of each kind; empty if there are none."""
    return "; ".join(f"{word}: {few(names, count)}" for word, names in problems.items() if names)


def _norm(state: Mapping[str, Tensor]) -> str:
    """The kind of norm that the names of the tensors show, as part of a message."""
    if any(name.endswith("norm.num_batches_tracked") for name in state):
        return "batch norm"
    if any(name.endswith("norm.running_mean") for name in state):
        return "frozen batch norm"
    return "group norm" if any(name.endswith("norm.weight") for name in state) else "no norm"
