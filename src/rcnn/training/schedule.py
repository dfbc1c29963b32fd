"""The learning-rate schedule: linear warm-up, then a decay at fixed fractions of the run."""

from __future__ import annotations

from rcnn.training.settings import TrainConfig


def learning_rate(step: int, settings: TrainConfig, processes: int = 1) -> float:
    """The learning rate of `step`, counted from 0 (warm-up: Goyal et al. 2017, section 2.2)."""
    rate = settings.scaled_lr(processes)
    rate *= settings.decay ** sum(step >= round(part * settings.steps) for part in settings.milestones)
    if step < settings.warmup_steps:
        progress = step / settings.warmup_steps
        rate *= settings.warmup_factor * (1 - progress) + progress
    return rate
