"""A run on disk: `last/` and `best/`, each a checkpoint; `last/` has beside it what it takes to go on training.

A folder is written whole beside its place and then moved there, so that a crash at any moment leaves one that loads.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rcnn.training.ema import Average

STATE_FILE = "training.pt"


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All of a run but its weights, after `step` optimizer steps."""

    step: int
    optimizer: dict[str, Any]  # the optimizer's own state dict
    best: float | None  # the best value so far of what best/ is chosen by
    torch_rng: Tensor
    numpy_rng: tuple[str, Tensor, int, int, float]  # numpy's global generator; its key as a tensor
    average: dict[str, Tensor] | None = None  # the averaged weights, where there are some (train.ema)

    @classmethod
    def capture(
        cls,
        *,
        step: int,
        optimizer: torch.optim.Optimizer,
        best: float | None,
        average: Average | None = None,
    ) -> TrainingState:
        """The state now."""
        kind, key, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - code that draws from it must go on the same
        return cls(
            step=step,
            optimizer=optimizer.state_dict(),
            best=best,
            torch_rng=torch.get_rng_state(),
            numpy_rng=(str(kind), torch.from_numpy(np.asarray(key).astype(np.int64)), *rest),  # type: ignore[arg-type]
            average=None if average is None else average.detector.state_dict(),
        )

    def restore(self, optimizer: torch.optim.Optimizer, average: Average | None = None) -> None:
        """Put `optimizer`, `average` and the two global generators where they were; settings stay those of now."""
        settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(self.optimizer)
        for group, own in zip(optimizer.param_groups, settings, strict=True):
            group.update(own)
        if average is not None and self.average is not None:  # a run may begin to average when it is resumed
            average.detector.load_state_dict(self.average)
        torch.set_rng_state(self.torch_rng)
        kind, key, place, has_gauss, gauss = self.numpy_rng
        np.random.set_state((kind, key.numpy().astype(np.uint32), place, has_gauss, gauss))  # noqa: NPY002


def write_state(folder: Path, state: TrainingState) -> None:
    """`training.pt` in `folder`: tensors, numbers and words only, so that reading it runs no code."""
    torch.save(vars(state), folder / STATE_FILE)


def read_state(folder: Path) -> TrainingState:
    """The state kept in `folder`; a ValueError says what is wrong with the file."""
    path = folder / STATE_FILE
    if not path.exists():
        raise ValueError(
            f"{path} is missing: {folder} holds weights, but no training to go on with; start a run from it"
        )
    try:
        return TrainingState(**torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a training state ({error}); start a run from {folder}") from error


def replace_folder(folder: Path, write: Callable[[Path], object]) -> None:
    """Have `write` fill a new folder, then put it in the place of `folder`; what was there goes only after that."""
    recover_folder(folder)
    new, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    write(new)
    if folder.exists():
        os.rename(folder, old)
    os.rename(new, folder)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Finish a `replace_folder` that a crash broke off between its two moves: the earlier folder comes back."""
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        os.rename(old, folder)
