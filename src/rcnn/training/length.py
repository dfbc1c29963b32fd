"""The length of a run: `train.steps`, `train.epochs`, or one of COCO's schedules (`train.schedule`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace

from rcnn.data.messages import counted
from rcnn.models.overrides import override
from rcnn.training.settings import PREFIX, TrainConfig

LENGTHS = ("steps", "epochs", "schedule")  # each of these settings sets the length of the run
# COCO's schedules in images (Detectron, tensorpack, Detectron2): k x is k times 90,000 steps of 16. The learning
# rate decays 60,000 and 20,000 such steps before the end; in 1x, 30,000 and 10,000.
STEP = 16
IMAGES_OF_1X = 90_000 * STEP
BEFORE_END_OF_1X = (30_000 * STEP, 10_000 * STEP)
BEFORE_END = (60_000 * STEP, 20_000 * STEP)
MANY_EPOCHS = 100  # a schedule of COCO with more is probably a mistake


@dataclass(frozen=True)
class Prefixed:
    """The training settings below their prefix, so that an error names `train.steps` as the user wrote it."""

    train: TrainConfig = field(default_factory=TrainConfig)


def changed_by(settings: TrainConfig, words: Sequence[str]) -> TrainConfig:
    """`settings` changed by KEY=VALUE words with the prefix; a word that sets the length replaces the old length.

    ValueError if two of the words set the length, and as for `override`.
    """
    given = [name for name in LENGTHS if name in keys_of(words)]
    if len(given) > 1:
        both = " and ".join(PREFIX + name for name in given)
        raise ValueError(f"{both} both set the length of the run; give one of them")
    if given:
        settings = replace(settings, epochs=0.0, schedule="")
    return override(Prefixed(settings), words).train


def keys_of(words: Sequence[str]) -> set[str]:
    """The names of the training settings in KEY=VALUE words, without the prefix."""
    return {word.partition("=")[0].strip().removeprefix(PREFIX) for word in words}


def with_length(
    settings: TrainConfig, *, images: int, processes: int, given: Collection[str], published: int = 0
) -> tuple[TrainConfig, dict[str, str]]:
    """`settings` with the steps and milestones that follow from its epochs or schedule, and the reason for each.

    `images`: number of training images. `given`: names of the settings that the user gave, which do not change.
    `published`: images per step of the recipe that sets `steps`; the steps are scaled to the images per step of this
    run. 0: `steps` is not from a recipe.
    """
    each = settings.images_per_step(processes)
    if settings.epochs:
        reason = f"{settings.epochs:g} epochs of {counted(images, 'image')}, {each} per step"
        return replace(settings, steps=max(1, round(settings.epochs * images / each))), {"steps": reason}
    if settings.schedule:
        return _scheduled(settings, each, keep_milestones="milestones" in given)
    if published and "steps" not in given and each != published:
        steps = max(1, round(settings.steps * published / each))
        return replace(settings, steps=steps), {"steps": f"the images of {settings.steps} steps of {published}"}
    return settings, {}


def with_rest(
    settings: TrainConfig, *, done: int, done_images: int, images: int, each: int
) -> tuple[TrainConfig, dict[str, str]]:
    """`settings` of a run that has had other images per step, with the steps for the images that are left.

    `done` steps are done, with `done_images` images. `each`: images per step from now on. `images` as in `with_length`.
    """
    left = _images_of(settings, images, each) - done_images
    reason = f"{counted(done, 'step')} done, then the images that are left, {each} per step"
    return replace(settings, steps=max(1, done + max(0, round(left / each)))), {"steps": reason}


def _images_of(settings: TrainConfig, images: int, each: int) -> float:
    """The number of images in a whole run with `each` images per step; `images` as in `with_length`."""
    if settings.schedule:
        return int(settings.schedule.removesuffix("x")) * IMAGES_OF_1X
    return settings.epochs * images or settings.steps * each


def _scheduled(settings: TrainConfig, each: int, *, keep_milestones: bool) -> tuple[TrainConfig, dict[str, str]]:
    """`settings` with the steps and milestones of its schedule, for `each` images per step."""
    total = int(settings.schedule.removesuffix("x")) * IMAGES_OF_1X
    steps = max(1, round(total / each))
    reasons = {"steps": f"{settings.schedule}: {total / 1e6:g} million images, {each} per step"}
    if keep_milestones:
        return replace(settings, steps=steps), reasons
    milestones = milestones_of(settings.schedule)
    return replace(settings, steps=steps, milestones=milestones), reasons | {"milestones": settings.schedule}


def milestones_of(schedule: str) -> tuple[float, ...]:
    """The milestones of a schedule of COCO, as fractions of the run; of 1x (2/3, 8/9)."""
    factor = int(schedule.removesuffix("x"))
    total = factor * IMAGES_OF_1X
    return tuple((total - images) / total for images in (BEFORE_END_OF_1X if factor == 1 else BEFORE_END))


def length_warning(
    settings: TrainConfig, *, images: int, processes: int, pace: Callable[[], float | None] = lambda: None
) -> list[str]:
    """A warning if a schedule of COCO is very long for this data set.

    `pace`: gives the seconds per step, for a run that is resumed; None: not known.
    """
    epochs = settings.steps * settings.images_per_step(processes) / max(1, images)
    if not settings.schedule or epochs <= MANY_EPOCHS:
        return []
    seconds = pace()
    time = f", about {seconds * settings.steps / 3600:,.1f} hours at the speed of the run so far" if seconds else ""
    return [
        f"train.schedule={settings.schedule} is for COCO: on {counted(images, 'image')} it is {settings.steps:,} "
        f"steps, about {epochs:,.0f} epochs{time}. Set train.epochs or train.steps instead"
    ]
