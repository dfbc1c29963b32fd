"""The learning-rate schedule: linear warm-up, then a decay at fixed fractions of the run."""

from __future__ import annotations

from torch.optim import Optimizer

from rcnn.training.settings import TrainConfig


def learning_rate(step: int, settings: TrainConfig, processes: int = 1) -> float:
    """The learning rate of `step`, counted from 0 (warm-up: Goyal et al. 2017, section 2.2)."""
    rate = settings.scaled_lr(processes)
    rate *= settings.decay ** sum(step >= round(part * settings.steps) for part in settings.milestones)
    if step < settings.warmup_steps:
        progress = step / settings.warmup_steps
        rate *= settings.warmup_factor * (1 - progress) + progress
    return rate


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step; groups of parameters with a `lr_factor` get that fraction of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
