"""The learning-rate schedule: linear warm-up, then steps down at milestones, or half a cosine."""

from __future__ import annotations

import math

from torch.optim import Optimizer

from rcnn.training.settings import TrainConfig


def learning_rate(step: int, settings: TrainConfig, processes: int = 1) -> float:
    """The learning rate of `step`, counted from 0 (warm-up: Goyal et al. 2017, section 2.2)."""
    rate = settings.scaled_lr(processes)
    if settings.cosine:
        progress = step / settings.steps
        rate *= settings.final_lr + (1 - settings.final_lr) * (1 + math.cos(math.pi * progress)) / 2
    else:
        rate *= settings.decay ** sum(step >= milestone for milestone in milestone_steps(settings))
    if step < settings.warmup_steps:
        progress = step / settings.warmup_steps
        rate *= settings.warmup_factor * (1 - progress) + progress
    return rate


def milestone_steps(settings: TrainConfig) -> list[int]:
    """The steps from which the learning rate is lower."""
    return [round(part if part > 1 else part * settings.steps) for part in settings.milestones]


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step; groups of parameters with a `lr_factor` get that fraction of it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
