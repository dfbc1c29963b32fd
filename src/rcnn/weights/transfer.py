"""Starts a detector from the weights of another one, with other classes, keypoints and heads."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from rcnn.data.messages import few
from rcnn.models import Detector, DetectorConfig
from rcnn.weights.checkpoint import Checkpoint
from rcnn.weights.differences import different_layers, different_tensors

# tensors with rows per class, and the number of these rows; the remaining rows belong to background
CLASS_ROWS = {"box_head.logits": 1, "box_head.deltas": 4, "mask_head.logits": 1}
# tensors with one slice per keypoint, and the axis of the keypoints
KEYPOINT_AXIS = {
    "keypoint_head.logits.weight": 1,
    "keypoint_head.logits.bias": 0,
    "keypoint_head.logits.pwl.weight": 0,
    "keypoint_head.logits.pwl.bias": 0,
}


@torch.no_grad()
def transfer(detector: Detector, checkpoint: Checkpoint, classes: Sequence[str]) -> str:
    """Copy the weights of `checkpoint` that fit into `detector`, which detects `classes`; returns a line about them.

    Weights of classes with the same name and of background are copied; those of new classes keep their initial values.
    The same holds for keypoints. The line names parts that only one of the two has (a mask head). Raises ValueError
    that names the tensors if a part that both have is built differently.
    """
    state, given = detector.state_dict(), checkpoint.state
    rows = _matching_rows(classes, checkpoint.classes)
    points, known_points = _keypoint_names(detector.config), _keypoint_names(checkpoint.config)
    new_parts = _parts(state) - _parts(given)
    dropped = _parts(given) - _parts(state)
    problems: list[str] = []
    copied, partial, partial_points = 0, 0, False
    for name, value in state.items():
        source = given.get(name)
        if name.split(".")[0] in new_parts or (source is None and name.endswith("num_batches_tracked")):
            continue
        per_class = _class_rows(name, detector.config)
        if source is None:
            problems.append(f"{name} (not in the checkpoint)")
        elif (
            (axis := KEYPOINT_AXIS.get(name)) is not None
            and points != known_points
            and _without_axis(source, axis) == _without_axis(value, axis)
        ):
            for ours, theirs in _matching_rows(points, known_points):
                value.select(axis, ours).copy_(source.select(axis, theirs))
            copied, partial_points = copied + (set(points) <= set(known_points)), True
        elif (
            per_class is not None
            and per_class == _class_rows(name, checkpoint.config)
            and source.shape[1:] == value.shape[1:]
        ):
            _copy_rows(value, source, rows, per_class, (len(classes), len(checkpoint.classes)))
            whole = len(rows) == len(classes)
            copied, partial = copied + whole, partial + (not whole)
        elif source.shape != value.shape:
            problems.append(f"{name} {tuple(source.shape)} (expected {tuple(value.shape)})")
        else:
            value.copy_(source)
            copied += 1
    problems += [
        f"{name} (not in the detector)" for name in given if name not in state and name.split(".")[0] not in dropped
    ]
    if problems:
        why = different_layers(checkpoint.config, detector.config) or different_tensors(state, given)
        raise ValueError(
            f"the checkpoint ({checkpoint.config.name}) and the detector ({detector.config.name}) are built "
            f"differently: {'; '.join([*why, few(problems)])}; remove the settings that change its layers"
        )
    line = f"transferred {copied} of {len(state)} tensors"
    if partial:
        line += _about_classes(classes, checkpoint.classes)
    if partial_points:
        kept = [name for name in points if name in known_points]
        line += f"; keypoints kept: {few(kept) if kept else 'none'}"
    for what, parts in (("new", new_parts), ("skipped", dropped)):
        line += f"; {what}: {', '.join(sorted(parts))}" if parts else ""
    return line


def _about_classes(classes: Sequence[str], known: Sequence[str]) -> str:
    """Which classes have new weights in the heads, and which have those of the checkpoint, as part of a message."""
    new, kept = [name for name in classes if name not in known], [name for name in classes if name in known]
    return f"; new heads for {few(new)}" + (f", those of {few(kept)} kept" if kept else "")


def _matching_rows(classes: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """(our label, their label) of each class that both have."""
    known = {name: label for label, name in enumerate(theirs)}
    return [(label, known[name]) for label, name in enumerate(classes) if name in known]


def _class_rows(name: str, config: DetectorConfig) -> int | None:
    """The number of rows per class of a tensor; None if all classes share the tensor."""
    part = re.sub(r"\.stages\.\d+", "", name).rpartition(".")[0]
    if config.fcis is not None:
        return 2 * config.fcis.groups**2 if part == "box_head.maps" else None
    shared = {
        "box_head.deltas": config.box.class_agnostic,
        "mask_head.logits": config.mask is not None and config.mask.class_agnostic,
    }
    return None if shared.get(part, False) else CLASS_ROWS.get(part)


def _without_axis(value: Tensor, axis: int) -> tuple[int, ...]:
    """The shape of `value` without `axis`."""
    return (*value.shape[:axis], *value.shape[axis + 1 :])


def _keypoint_names(config: DetectorConfig) -> tuple[str, ...]:
    return () if config.keypoint is None else config.keypoint.names


def _copy_rows(
    value: Tensor, source: Tensor, rows: list[tuple[int, int]], per_class: int, counts: tuple[int, int]
) -> None:
    """Copy the rows of matching classes, and those after the last class (background), from `source` into `value`."""
    for ours, theirs in rows:
        value[ours * per_class : (ours + 1) * per_class] = source[theirs * per_class : (theirs + 1) * per_class]
    value[counts[0] * per_class :] = source[counts[1] * per_class :]


def _parts(state: dict[str, Tensor]) -> set[str]:
    return {name.split(".")[0] for name in state}
