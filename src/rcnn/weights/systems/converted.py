"""The result of a conversion, and the check that the tensors are those of the network."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from rcnn.models import DetectorConfig, build_detector
from rcnn.models.overrides import config_to_dict
from rcnn.weights.listing import first_names

MAX_LISTED = 1000  # tensors that a message lists by name
Kind = Literal["detector", "backbone"]
# settings that decide the shape of a layer, for the message where it does not fit
SHAPED_BY = {
    "rpn.objectness": "rpn.anchors.sizes and rpn.anchors.ratios",
    "rpn.deltas": "rpn.anchors.sizes and rpn.anchors.ratios",
    "rpn.convs": "rpn.convs and rpn.width",
    "box_head.trunk.fc1": "box.pooler.size and box.fc_width",
    "box_head.logits": "num_classes",
    "box_head.deltas": "num_classes and box.class_agnostic",
    "mask_head.logits": "num_classes and mask.class_agnostic",
    "keypoint_head.logits": "keypoint.names",
}


@dataclass(frozen=True)
class Assumption:
    """Settings that the file does not contain, and where their values come from."""

    what: str  # "image size"
    source: str  # "Detectron2's model zoo"
    keys: tuple[str, ...] = ()  # our settings: input.min_size

    def sentence(self, config: DetectorConfig, given: Sequence[str] = ()) -> str:
        """`image size: input.min_size=800 (torchvision's constructors)`.

        Empty where all keys are `given` by the user.
        """
        keys = [key for key in self.keys if key not in given]
        if self.keys and not keys:
            return ""
        values = " ".join(f"{key}={setting_text(config, key)}" for key in keys)
        return f"{self.what}: {values} ({self.source})" if values else f"{self.what} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Weights of another system in our format."""

    config: DetectorConfig
    state: dict[str, Tensor]  # fits build_detector(config), name for name, but for tensors that may be missing
    classes: tuple[str, ...]
    system: str  # "Detectron2", "tensorpack"
    summary: str  # one line for people: what was found
    kind: Kind = "detector"
    assumed: tuple[str, ...] = ()  # a sentence for each setting that the file does not contain
    notes: tuple[str, ...] = ()  # a sentence for each setting or difference that the user should know of
    skipped: tuple[str, ...] = ()  # names of tensors skipped on purpose: optimizer, averaged weights, anchors


def setting_text(config: DetectorConfig, key: str) -> str:
    """The value of setting `key` (box.selection.nms_iou) as it is typed on the command line."""
    value: object = config_to_dict(config)
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) else None
    return _text(value)


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(each) for each in value) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def require_fit(
    config: DetectorConfig,
    state: Mapping[str, Tensor],
    source: str,
    *,
    part: str = "",
    allow_missing: Sequence[str] = (),
) -> None:
    """A ValueError, naming the tensors, unless `state` is what a detector of `config` holds.

    With `part`, only the detector's tensors whose names start with it are expected. Tensors that match a pattern of
    `allow_missing` may be missing.
    """
    with torch.device("meta"):  # shapes only: nothing is initialized or stored
        expected = build_detector(config).state_dict()
    expected = {name: value for name, value in expected.items() if name.startswith(part)}
    other = {name for name, value in expected.items() if name in state and state[name].shape != value.shape}
    problems = {
        "missing": [
            name
            for name in expected
            if name not in state and not any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_missing)
        ],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} (expected {tuple(expected[name].shape)})" for name in sorted(other)
        ],
    }
    found = "; ".join(f"{word}: {first_names(names, MAX_LISTED)}" for word, names in problems.items() if names)
    if not found:
        return
    hints = {setting for layer, setting in SHAPED_BY.items() if any(name.startswith(f"{layer}.") for name in other)}
    hint = f". These shapes depend on {', '.join(sorted(hints))}: give them as KEY=VALUE" if hints else ""
    only_missing = problems["missing"] and not problems["unexpected"] and not other
    hint += ". Allow missing tensors with --allow-missing PATTERN; they get initial values" if only_missing else ""
    raise ValueError(f"{source} does not fit {config.name}, the model that it looks like: {found} (our names){hint}")
