"""One way in for weights of other systems: which system a file is from is read from its tensors' names.

To add one: a module with `recognises(names)` and `from_<system>(state, config_file, source)`, and a line in SYSTEMS.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnn.weights.converted import Converted, few
from rcnn.weights.d2go import from_d2go, is_d2go
from rcnn.weights.detectron2 import from_detectron2
from rcnn.weights.detectron2 import recognises as is_detectron2
from rcnn.weights.mmdetection import from_mmdetection
from rcnn.weights.mmdetection import recognises as is_mmdetection
from rcnn.weights.pickles import read_pickle
from rcnn.weights.torchvision import from_torchvision, is_torchvision

INSIDE = ("model", "state_dict", "model_state_dict")  # where trainers put the weights among other things
Settings = str | Path | None  # a system's own configuration: a file, or a name or words that the system knows


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a file of weights holds."""

    state: Mapping[str, Tensor]  # names as the file has them, without DistributedDataParallel's `module.`
    source: str  # the file, for messages
    extras: Mapping[str, Any] = field(default_factory=dict)  # what lies beside the weights: meta, cfg, epoch


@dataclass(frozen=True, kw_only=True)
class System:
    """A system whose files we read."""

    name: str
    files: str  # what its files are
    recognises: Callable[[Collection[str]], bool]  # by the names of the tensors
    read: Callable[[Found, Settings], Converted]
    settings: str = ""  # what --config takes; empty: nothing


def _plain(function: Callable[[Mapping[str, Tensor], Settings, str], Converted]) -> Callable[..., Converted]:
    """A `from_<system>` that needs the weights and the settings alone."""
    return lambda found, settings: function(found.state, settings, found.source)


def _d2go(found: Found, settings: Settings) -> Converted:
    return from_d2go({**found.extras, "model": found.state}, found.source)


def _torchvision(found: Found, settings: Settings) -> Converted:
    return from_torchvision(found.state, found.source)


def _mmdetection(found: Found, settings: Settings) -> Converted:
    return from_mmdetection(found.state, settings, found.source, found.extras)


# tried in order; the first that recognises the names reads the file
SYSTEMS: tuple[System, ...] = (
    System(name="D2Go", files=".pth, .pt of FBNetV3A detectors", recognises=is_d2go, read=_d2go),
    System(
        name="Detectron2",
        files=".pkl, .pth",
        recognises=is_detectron2,
        read=_plain(from_detectron2),
        settings="its YAML",
    ),
    System(name="torchvision", files=".pth", recognises=is_torchvision, read=_torchvision),
    System(
        name="MMDetection",
        files=".pth of 2.x and 3.x",
        recognises=is_mmdetection,
        read=_mmdetection,
        settings="its config, a .py file",
    ),
)


def known_systems() -> str:
    """The systems and their files, for people."""
    return ", ".join(f"{system.name} ({system.files})" for system in SYSTEMS)


def convert(file: str | Path, settings: Settings = None) -> Converted:
    """The detector in `file`, a checkpoint of another system; `settings` are that system's own, where it has any.

    Nothing in the file is run. Raises FileNotFoundError, or ValueError that names the file and what is wrong with it.
    """
    found = _find(read_pickle(file), Path(file))
    names = list(found.state)
    for system in SYSTEMS:
        if system.recognises(names):
            if settings is not None and not system.settings:
                raise ValueError(
                    f"{settings}: files of {system.name} come without settings, as {file} does; leave it out"
                )
            return system.read(found, settings)
    raise ValueError(f"{file} is of no system we know: its tensors are {few(names)}. Known: {known_systems()}")


def _find(content: Any, file: Path) -> Found:
    """The named tensors among what a file holds, in float32 (integers as they are), and what lies beside them."""
    extras: Mapping[str, Any] = {}
    for key in INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            extras, content = {name: value for name, value in content.items() if name != key}, content[key]
            break
    if isinstance(content, Mapping) and isinstance(content.get("blobs"), Mapping):
        raise ValueError(
            f"{file} is Detectron's (Caffe2), which this version does not convert. Known: {known_systems()}"
        )
    state = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.array(value, copy=True))
        if isinstance(name, str) and isinstance(value, Tensor):
            value = value.detach()
            state[name.removeprefix("module.")] = value.float() if value.is_floating_point() else value
    if not state:
        held = few([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{file} holds no named tensors: found {held or 'nothing'}. Known: {known_systems()}")
    return Found(state=state, source=str(file), extras=extras)
