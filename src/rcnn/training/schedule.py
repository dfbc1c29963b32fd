"""The learning-rate schedule: linear warm-up, then decay at milestones, or half a cosine."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

from torch.optim import Optimizer

from rcnn.training.settings import TrainConfig

COSINE_DECAYED = math.acos(0.1 * 2 - 1) / math.pi  # fraction of a run, about .8, after which a cosine is below .1


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
    """The steps at which the learning rate decays."""
    return [round(part if part > 1 else part * settings.steps) for part in settings.milestones]


def last_decay(settings: TrainConfig) -> int:
    """The number of steps after which the learning rate has decayed: the last milestone within the run.

    A cosine has no milestones; for it, the number of steps after which nine tenths of its decay are done. 0 if the
    learning rate is constant.
    """
    if settings.cosine:
        return math.ceil(COSINE_DECAYED * settings.steps)
    return max((step for step in milestone_steps(settings) if step < settings.steps), default=0)


def require_one_schedule(settings: TrainConfig, given: Collection[str]) -> None:
    """ValueError if the user gave both milestones and a cosine. `given`: names of the settings that the user gave."""
    if settings.cosine and {"cosine", "milestones"} <= set(given):
        raise ValueError(
            f"train.cosine=true and train.milestones={list(settings.milestones)} both set when the learning rate "
            "decays; give one of them"
        )


def schedule_warnings(settings: TrainConfig, given: Collection[str]) -> Iterator[str]:
    """Warnings about schedule settings without effect in this run. `given`: names of the settings of the user."""
    if settings.warmup_steps >= settings.steps:
        yield (
            f"train.warmup_steps={settings.warmup_steps} is not less than train.steps={settings.steps}: the learning "
            "rate never reaches train.lr. Set train.warmup_steps to a small part of train.steps"
        )
    late = [f"{milestone:g}" for milestone in settings.milestones if milestone > 1 and milestone >= settings.steps]
    if late and not settings.cosine:
        yield (
            f"train.milestones: {', '.join(late)} is not less than train.steps={settings.steps}, so the learning rate "
            "does not decay there. Milestones up to 1 are fractions of the run, e.g. [0.67, 0.89]"
        )
    if settings.final_lr and not settings.cosine:
        yield f"train.final_lr={settings.final_lr:g} is used with train.cosine=true only: add it, or leave final_lr out"
    if settings.cosine and "milestones" in given:
        yield "train.milestones is not used with train.cosine=true: add train.cosine=false, or leave milestones out"


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of the next step: `rate` times the `lr_factor` of each parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_factor"]
