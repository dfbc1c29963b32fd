"""Conversion of a state dict in memory, without a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.converted import Converted
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import System


def convert_state(
    system: System,
    state: Mapping[str, Tensor],
    settings: SettingsSource = None,
    source: str = "the state dict",
    extras: Mapping[str, Any] | None = None,
) -> Converted:
    """`state` of a file of `system`; `source` names it in messages, `extras` is stored beside it in the file."""
    return system.convert(Found(state=state, source=source, extras=extras or {}), settings)
