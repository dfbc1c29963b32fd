"""Check before a run starts that its checkpoints fit on the disk."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from rcnn.models import Detector
from rcnn.outputs import free_space
from rcnn.training.found_run import CHECKPOINTS
from rcnn.training.settings import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DiskSpace:
    """The bytes that a run writes, and the bytes that are free. Logs and charts are small and not counted."""

    last: int  # last/: the weights, the state of the optimizer, the EMA
    best: int  # best/, averaged/ and each step-N/: the weights
    kept: int  # number of step-N/ folders
    present: int  # bytes of the checkpoints that the run already has
    free: float  # bytes; infinity: the file system does not say

    @property
    def most(self) -> int:
        """Bytes that the run adds at most: a new checkpoint is complete before the old one is removed."""
        return max(self.last, 2 * self.last + (1 + self.kept) * self.best - self.present)

    def describe(self) -> str:
        """One line for the plan of a run."""
        kept = f", {self.kept} x {_mb(self.best)} step-N/" if self.kept else ""
        free = "free space not known" if math.isinf(self.free) else f"{_mb(self.free)} free"
        return (
            f"up to {_mb(self.most)} more for checkpoints (last/ {_mb(self.last)}, twice while it is replaced, best/ "
            f"{_mb(self.best)}{kept}); {free}"
        )


def disk_space(detector: Detector, settings: TrainConfig, output: Path | None) -> DiskSpace:
    """The space that a run of `detector` needs in `output` (None: a new folder here)."""
    weights = tensor_bytes(detector.state_dict())
    trained = tensor_bytes([parameter for parameter in detector.parameters() if parameter.requires_grad])
    momenta = 2 if settings.optimizer == "adamw" else int(settings.momentum > 0)
    present = (*(output / name for name in CHECKPOINTS), *output.glob("step-*")) if output is not None else ()
    return DiskSpace(
        last=weights + momenta * trained + (weights if settings.ema else 0),
        best=weights,
        kept=settings.steps // settings.keep if settings.keep else 0,
        present=sum(file.lstat().st_size for folder in present for file in folder.glob("*")),
        free=free_space(output or Path()),
    )


def require_space(space: DiskSpace, output: Path | None) -> list[str]:
    """Warnings if the run may need more space than is free.

    OSError if there is no space for last/, or if one of its files is larger than the shell allows (ulimit -f).
    """
    where = output or Path("runs")
    largest = max(space.best, space.last - space.best)  # bytes: the weights, the state of the optimizer and the EMA
    if largest > (limit := largest_file()):
        raise OSError(
            errno.EFBIG,
            f"{os.strerror(errno.EFBIG)} for this shell, which limits files to {_mb(limit)}: the largest file of a "
            f"checkpoint has {_mb(largest)}",
            str(where / "last"),
        )
    if space.free < space.last:
        raise OSError(
            errno.ENOSPC,
            f"No space left for the checkpoints of this run: {_mb(space.last)} are needed",
            str(where),
        )
    if space.free >= space.most:
        return []
    fewer = ", raise train.keep (fewer are kept)" if space.kept else ""
    return [
        f"the checkpoints in {where} may need {_mb(space.most)}, but {_mb(space.free)} are free: free some space, or "
        f"choose another output{fewer}"
    ]


def largest_file() -> float:
    """Bytes that a file of this process may have; infinity without a limit."""
    try:
        import resource
    except ImportError:  # on Windows
        return math.inf
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit


def tensor_bytes(value: Any) -> int:
    """The bytes of all tensors in `value`: a tensor, or dicts, lists and tuples that contain tensors."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(tensor_bytes(one) for one in value.values())
    return sum(tensor_bytes(one) for one in value) if isinstance(value, Iterable) and not isinstance(value, str) else 0


def _mb(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"
