"""The result of a conversion, and the check that the tensors are those of the network."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.differences import mismatches, mismatches_text
from rcnn.weights.setting_texts import setting_values, value_text

MAX_LISTED = 1000  # tensors that a message lists by name
Kind = Literal["detector", "backbone"]
# settings that decide the shape of a layer, for the error message
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

        Empty if all keys are `given` by the user.
        """
        keys = [key for key in self.keys if key not in given]
        if self.keys and not keys:
            return ""
        settings = setting_values(config)
        values = " ".join(f"{key}={value_text(settings.get(key))}" for key in keys)
        return f"{self.what}: {values} ({self.source})" if values else f"{self.what} ({self.source})"


@dataclass(frozen=True, kw_only=True)
class Converted:
    """Weights of another system in our format."""

    config: DetectorConfig
    state: dict[str, Tensor]  # as in build_detector(config), without tensors that are missing and may be
    classes: tuple[str, ...]
    system: str  # "Detectron2", "tensorpack"
    summary: str  # one line for the user: what was found
    kind: Kind = "detector"
    assumed: tuple[str, ...] = ()  # a sentence for each setting that the file does not contain
    notes: tuple[str, ...] = ()  # a sentence for each setting or difference that the user should know of
    skipped: tuple[str, ...] = ()  # names of tensors skipped on purpose: optimizer, averaged weights, anchors


@lru_cache(maxsize=4)  # a conversion asks two or three times
def expected_state(config: DetectorConfig) -> Mapping[str, Tensor]:
    """Names and shapes of the state of a detector of `config`, without values (on the meta device)."""
    with torch.device("meta"):
        return MappingProxyType(empty_detector(config).state_dict())


def require_fit(
    config: DetectorConfig,
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    source: str,
    *,
    part: str = "",
    allow_missing: Sequence[str] = (),
) -> None:
    """Raise ValueError that names the tensors unless `state` has the names and shapes of `expected`, for `config`.

    With `part`, only tensors with names that start with `part` are expected. Tensors that match a pattern of
    `allow_missing` may be missing.
    """
    expected = {name: value for name, value in expected.items() if name.startswith(part)}
    allowed = {name for name in expected if any(fnmatch.fnmatchcase(name, pattern) for pattern in allow_missing)}
    needed = {name: value for name, value in expected.items() if name in state or name not in allowed}
    problems = mismatches(needed, state)
    other = problems["of another shape"]
    if not (found := mismatches_text(problems, MAX_LISTED)):
        return
    hints = {setting for layer, setting in SHAPED_BY.items() if any(name.startswith(f"{layer}.") for name in other)}
    hint = f". These shapes depend on {', '.join(sorted(hints))}: give them as KEY=VALUE" if hints else ""
    only_missing = problems["missing"] and not problems["unexpected"] and not other
    if only_missing:
        hint += ". Allow missing tensors by a pattern in allow_missing (--allow-missing); they get initial values"
    raise ValueError(f"{source} does not fit {config.name}, the model that it looks like: {found} (rcnn's names){hint}")
