"""The learning rate as a function of the step: linear warm-up, then falls at fixed parts of the run."""

from __future__ import annotations

from rcnn.training.settings import TrainConfig


def learning_rate(step: int, settings: TrainConfig, world: int = 1) -> float:
    """The rate for `step`, counted from 0 (Goyal et al. 2017, section 2.2, for the warm-up)."""
    rate = settings.scaled_lr(world)
    rate *= settings.decay ** sum(step >= round(part * settings.steps) for part in settings.milestones)
    if step < settings.warmup_steps:
        done = step / settings.warmup_steps
        rate *= settings.warmup_factor * (1 - done) + done
    return rate
