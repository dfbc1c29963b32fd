"""Checks that the maps of the user's own backbone have the names, channels and strides that it states."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from rcnn.models.backbones.backbone import Backbone

SIDES = (128, 192)  # height and width of the test image, pixels


def checked_backbone(module: nn.Module, source: str) -> Backbone:
    """`module`. Raises ValueError unless its maps of a test image have the channels and strides that it states.

    `source` is the import path of its factory, for the message.
    """
    parameter = next(module.parameters(), None)
    if parameter is None:
        raise ValueError(f"{source} has no parameters; expected a network to train")
    channels, strides = _map_table(module, "channels", source), _map_table(module, "strides", source)
    if list(channels) != list(strides):
        raise ValueError(
            f"{source}: channels has {_listed(channels)}, strides has {_listed(strides)}; expected the same maps"
        )
    _require_map_names(channels, source)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            features = module(torch.zeros(1, 3, *SIDES, dtype=parameter.dtype, device=parameter.device))
    except Exception as error:
        raise ValueError(
            f"{source} failed on an image of {SIDES[0]} x {SIDES[1]} pixels: {type(error).__name__}: {error}"
        ) from error
    finally:
        for part, mode in modes:
            part.training = mode
    _require_maps(features, channels, strides, source)
    return cast(Backbone, module)


def _map_table(module: nn.Module, name: str, source: str) -> dict[str, int]:
    """The attribute `channels` or `strides` of a backbone."""
    table = getattr(module, name, None)
    if not isinstance(table, dict) or not table or not all(isinstance(key, str) for key in table):
        example = '{"c2": 64, "c3": 128}' if name == "channels" else '{"c2": 4, "c3": 8}'
        raise ValueError(
            f"{source} made a {type(module).__name__} with {name}={table!r}; expected a dict, one number per map "
            f"name, e.g. self.{name} = {example}"
        )
    if wrong := {key: value for key, value in table.items() if type(value) is not int or value < 1}:
        raise ValueError(f"{source}: {name} has {wrong}; expected integers of 1 or more")
    return table


def _require_map_names(channels: Mapping[str, int], source: str) -> None:
    names = list(channels)
    numbers = [int(name[1:]) for name in names if re.fullmatch(r"[cp]\d", name)]
    letters = {name[:1] for name in names}
    if len(numbers) != len(names) or len(letters) != 1 or numbers != list(range(numbers[0], numbers[0] + len(names))):
        raise ValueError(
            f"{source} names its maps {_listed(names)}; expected c2, c3, c4, c5 (or some of them in a row, the finest "
            "first), or p2 to p6 from a backbone that is a pyramid itself"
        )
    if letters == {"p"} and (len(names) < 2 or len(set(channels.values())) > 1):
        raise ValueError(
            f"{source} is a pyramid with {_listed([f'{name}: {count}' for name, count in channels.items()])} channels; "
            "expected two maps or more, all with the same number of channels"
        )


def _require_maps(features: object, channels: Mapping[str, int], strides: Mapping[str, int], source: str) -> None:
    if not isinstance(features, dict) or list(features) != list(channels):
        got = _listed(features) if isinstance(features, dict) else f"a {type(features).__name__}"
        raise ValueError(
            f"{source}: forward returned {got}; expected a dict with the maps {_listed(channels)}, as in channels"
        )
    for name, value in features.items():
        if not isinstance(value, Tensor) or value.ndim != 4:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise ValueError(f"{source}: forward returned {got} for the map {name}; expected a tensor (B, C, H, W)")
        if value.shape[1] != channels[name]:
            raise ValueError(
                f"{source}: the map {name} has {value.shape[1]} channels; channels[{name!r}] is {channels[name]}"
            )
        expected = tuple(-(-side // strides[name]) for side in SIDES)
        if tuple(value.shape[2:]) != expected:
            raise ValueError(
                f"{source}: for an image of {SIDES[0]} x {SIDES[1]} pixels the map {name} is {value.shape[2]} x "
                f"{value.shape[3]}; strides[{name!r}]={strides[name]} makes {expected[0]} x {expected[1]}"
            )


def _listed(names: Sequence[str] | Mapping[str, object]) -> str:
    return ", ".join(map(str, names)) or "no maps"
