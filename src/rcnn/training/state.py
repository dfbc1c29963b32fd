"""Everything that a training step changes; `training.pt` stores all of it except the weights."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rcnn.commands import as_typed
from rcnn.models import Detector
from rcnn.outputs import REPLACED
from rcnn.runtime.processes import ALONE, Processes
from rcnn.training.distributed import parallel, synchronize_norms
from rcnn.training.ema import EMA
from rcnn.training.parameter_groups import parameter_groups
from rcnn.training.settings import TrainConfig
from rcnn.training.sharding import divided, divided_state, whole_state
from rcnn.weights.files import STATE_FILE

COMPILE: dict[str, dict[str, Any]] = {"default": {}, "cuda_graphs": {"mode": "reduce-overhead", "dynamic": False}}
KEYS = {"step", "best", "since_best", "evaluation_due", "optimizer", "ema", "random"}  # of the file
OTHER_RANDOM = "other_random"  # key of the random generators of the processes after the first, where there are any
RandomState = dict[str, Any]  # of the global generators of one process


@dataclass(kw_only=True)
class TrainState:
    """The state of a run after `step` optimizer steps. Training changes it in place."""

    detector: Detector
    model: nn.Module  # what computes the losses: `detector`, or its wrapper that averages gradients over processes
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    processes: Processes = ALONE
    step: int = 0
    best: float | None = None  # the best value so far of the metric that best/ is chosen by
    since_best: int = 0  # evaluations since the best; 0 until a value is above 0
    evaluation_due: bool = False  # the evaluation after `step` is not done yet
    skipped: int = 0  # steps in a row, up to `step`, that were not finite (train.nonfinite=skip); not saved

    @classmethod
    def start(cls, detector: Detector, settings: TrainConfig, processes: Processes = ALONE) -> TrainState:
        """The state before the first step. All processes call it together; they get the weights of the first."""
        is_divided = settings.shard and processes.count > 1
        if settings.channels_last and not is_divided:  # fully_shard takes contiguous weights only
            detector.to(memory_format=torch.channels_last)
        if processes.count > 1 and settings.sync_bn:
            synchronize_norms(detector)
        ema = EMA(detector, settings.ema) if settings.ema else None
        if settings.compile != "none":  # at the first step; `losses` and `predict` themselves stay as they are
            detector.compile(fullgraph=True, **COMPILE[settings.compile])
        if ema is not None and is_divided:
            parallel(ema.detector, settings, processes)
        return cls(
            detector=detector,
            model=parallel(detector, settings, processes),
            optimizer=build_optimizer(detector, settings),
            ema=ema,
            processes=processes,
        )

    @property
    def evaluated(self) -> Detector:
        """The detector that is evaluated and saved in best/: the EMA if there is one."""
        return self.detector if self.ema is None else self.ema.detector

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.detector.parameters()).device

    def contents(self) -> dict[str, Any]:
        """What `training.pt` contains: tensors, numbers and strings only. All processes call it together.

        In the first process, it includes the random generators of all processes; in the others, none.
        """
        # all processes save at the same time, so one that does not answer has stalled
        random_states = self.processes.gather(random_state(self.device), patient=False)
        values: dict[str, Any] = {
            "step": self.step,
            "best": self.best,
            "since_best": self.since_best,
            "evaluation_due": self.evaluation_due,
            "optimizer": whole_state(self.optimizer.state_dict()),
            "ema": None if self.ema is None else whole_state(self.ema.detector.state_dict()),
            "random": random_states[0] if random_states else None,
        }
        return values | ({OTHER_RANDOM: random_states[1:]} if len(random_states) > 1 else {})

    def restore(self, values: Mapping[str, Any]) -> None:
        """Continue from what `read_state` returned; the weights of `detector` must be loaded already.

        Momentum and weight decay keep their present settings; the learning rate is set in each step. The random
        generators are restored if the saved run had a process of this rank. ValueError, or an error of torch, if the
        values do not fit.
        """
        kept = {"params", "lr"}
        settings = [{k: v for k, v in group.items() if k not in kept} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(values["optimizer"])
        _require_shapes(self.optimizer)
        for parameter, state in self.optimizer.state.items():
            state.update({name: divided(v, parameter) for name, v in state.items() if isinstance(v, Tensor) and v.ndim})
        for group, own in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(own)
        if self.ema is not None:  # it may have been turned on at this resume: then it starts from the weights
            average = divided_state(values["ema"], self.ema.detector) if values["ema"] else self.detector.state_dict()
            self.ema.detector.load_state_dict(average)
        self.step, self.best, self.evaluation_due = values["step"], values["best"], values["evaluation_due"]
        self.since_best = values["since_best"]
        if type(self.step) is not int or self.step < 0:
            raise ValueError(f"step is {self.step!r}; expected an integer of 0 or more")
        random_states = [values["random"], *values.get(OTHER_RANDOM, [])]
        if self.processes.rank < len(random_states):
            _restore_random_state(random_states[self.processes.rank], self.device)


def build_optimizer(detector: nn.Module, settings: TrainConfig) -> torch.optim.Optimizer:
    """The optimizer of all parameters that are not frozen, in the groups of `parameter_groups`."""
    groups = [
        {"params": group.parameters, "weight_decay": group.weight_decay, "lr_factor": group.lr_factor}
        for group in parameter_groups(detector, settings)
    ]
    fused = settings.fused_optimizer or None  # None: torch's default, which is "foreach" on a GPU; False forbids both
    if settings.optimizer == "adamw":
        betas = (settings.momentum, 0.999)
        return torch.optim.AdamW(groups, lr=settings.lr, betas=betas, fused=fused)
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, fused=fused)


def _require_shapes(optimizer: torch.optim.Optimizer) -> None:
    """ValueError unless each tensor of the optimizer's state has the shape of its parameter, and is finite."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if not isinstance(value, torch.Tensor) or not value.ndim:
                continue
            if value.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected {tuple(parameter.shape)}")
            if not value.isfinite().all():
                raise ValueError(f"{name} has NaN or infinity")


def write_state(values: Mapping[str, Any], folder: Path) -> None:
    """Write what `TrainState.contents` returned to `training.pt` in `folder`. No code runs when the file is read."""
    save_values(values, folder / STATE_FILE)


def save_values(values: Mapping[str, Any], path: Path) -> None:
    """`torch.save` that raises OSError for an error of the disk, and lets a second Ctrl-C through."""
    try:
        with path.open("wb") as file:  # torch hides the number of an error if it opens the file itself
            torch.save(values, file)
    except RuntimeError as error:
        first = error.__context__  # torch ends the file in every case, which fails after another error
        if isinstance(first, OSError) or (first is not None and not isinstance(first, Exception)):
            raise first from error
        raise


def read_state(folder: Path) -> dict[str, Any]:
    """The contents of `training.pt` in `folder`. ValueError if it is missing or damaged."""
    path = folder / STATE_FILE
    start = as_typed("rcnn", "train", folder, "--data", "DATA", "--output", "NEW_RUN")
    if not os.path.lexists(path):
        raise ValueError(
            f"{path} is missing: {folder} contains weights, but not the state of the optimizer. "
            f"Start a new run from the weights: {start}"
        )
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(values, dict) or set(values) - {OTHER_RANDOM} != KEYS:
            raise ValueError(f"expected the fields {', '.join(sorted(KEYS))}")
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(
            f"{path} cannot be read as a training state ({reason[0]}). Start a new run from the weights: {start}"
        ) from error
    return values


def steps_done(run: Path) -> int:
    """The number of steps that last/ of `run` has done. ValueError if its state is damaged."""
    last = run / "last" if (run / "last").exists() else run / f"{REPLACED}last"  # of a process that was killed
    step = read_state(last)["step"]
    if type(step) is not int or step < 0:
        raise ValueError(f"{last / STATE_FILE}: step is {step!r}; expected an integer of 0 or more")
    return step


def seed_random(seed: int, rank: int = 0) -> None:
    """Seed the global random generators, which modules such as dropout and user code may draw from.

    Each process `rank` gets its own seed.
    """
    seed = (seed + rank * 1_000_003) % 2**31
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)


def random_state(device: torch.device) -> RandomState:
    """The state of the global random generators; of the GPUs, only that of `device`."""
    kind, key, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (str(kind), torch.from_numpy(np.asarray(key).astype(np.int64)), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def _restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    random.setstate(state["python"])
    kind, key, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
