"""One way in for weights of other systems: which system a file is from is read from its tensors' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnn.weights.converted import Converted, few
from rcnn.weights.d2go import from_d2go, is_d2go
from rcnn.weights.detectron2 import from_detectron2, is_detectron2
from rcnn.weights.pickles import read_pickle
from rcnn.weights.torchvision import from_torchvision, is_torchvision

SYSTEMS = "Detectron2 (.pkl, .pth), torchvision (.pth) and D2Go's FBNetV3A (.pth)"
INSIDE = ("model", "state_dict", "model_state_dict")  # where trainers put the weights among other things


def convert(file: str | Path, config_file: str | Path | None = None) -> Converted:
    """The detector in `file`, a checkpoint of another system; `config_file` is that system's, where it has one.

    Nothing in the file is run. Raises FileNotFoundError, or ValueError that names the file and what is wrong with it.
    """
    file = Path(file)
    content = read_pickle(file)
    state = _state(content, file)
    names = list(state)
    if is_detectron2(names) and not is_d2go(names):
        return from_detectron2(state, config_file, str(file))
    if config_file is not None:
        raise ValueError(
            f"{config_file}: only Detectron2's files come with a config, and {file} is not one; leave it out"
        )
    if is_d2go(names):
        return from_d2go({**content, "model": state}, str(file))
    if is_torchvision(names):
        return from_torchvision(state, str(file))
    raise ValueError(f"{file} is of no system we know: its tensors are {few(names)}. Known: {SYSTEMS}")


def _state(content: Any, file: Path) -> dict[str, Tensor]:
    """The named tensors among what a file holds, in float32 (integers as they are)."""
    for key in INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
            break
    if isinstance(content, Mapping) and isinstance(content.get("blobs"), Mapping):
        raise ValueError(f"{file} is Detectron's (Caffe2), which this version does not convert. Known: {SYSTEMS}")
    state = {}
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.array(value, copy=True))
        if isinstance(name, str) and isinstance(value, Tensor):
            value = value.detach()
            # DistributedDataParallel puts its own word before every name
            state[name.removeprefix("module.")] = value.float() if value.is_floating_point() else value
    if not state:
        held = few([str(key) for key in content]) if isinstance(content, Mapping) else type(content).__name__
        raise ValueError(f"{file} holds no named tensors: found {held or 'nothing'}. Known: {SYSTEMS}")
    return state
