"""A published way to train a model, as data."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from rcnn.data.messages import counted
from rcnn.training.settings import TrainConfig, split_overrides


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Published settings with their published results. Average precision is in percent."""

    name: str  # SYSTEM/NAME, as `--recipe` takes it
    model: str  # from `rcnn models list`
    weights: str = "imagenet"  # as --weights takes it; none: random weights; empty: not those of the recipe
    settings: tuple[str, ...] = field(repr=False)  # KEY=VALUE, of the model and of training
    images_per_step: int  # over all processes; with fewer processes, gradients are accumulated
    evaluate_epochs: float = 0.0  # passes over the training images between evaluations; 0: train.evaluate_every is set
    trained_on: str = "COCO train2017"
    evaluated_on: str = "COCO val2017"
    box: float | None = None  # AP of boxes, as published
    mask: float | None = None
    keypoints: float | None = None
    metric: str = "AP"  # what these three numbers are, e.g. AP50
    recall: float | None = None  # average recall of 1000 proposals per image, percent
    hours: float | None = None  # of training, as published or from the published seconds per step; None: unknown
    hardware: str = ""  # of the publisher; empty: not published
    source: str = field(repr=False)  # where settings and results were published
    differs: str = field(default="", repr=False)  # where a run of rcnn is known to differ

    @property
    def model_settings(self) -> tuple[str, ...]:
        """The settings of the model."""
        return tuple(split_overrides(self.settings)[0])

    @property
    def network(self) -> tuple[str, ...]:
        """The model, and the settings that make it another network than its name says, e.g. backbone.depth=101."""
        return (self.model, *(word for word in self.model_settings if word.startswith("backbone.depth=")))

    @property
    def input_settings(self) -> tuple[str, ...]:
        """The settings of the model that depend on its first weights: pixels, strides, padding."""
        return tuple(word for word in self.model_settings if word.startswith(("input.", "backbone.")))

    @property
    def training_settings(self) -> tuple[str, ...]:
        """The settings of training, which start with `train.`."""
        return tuple(split_overrides(self.settings)[1])

    def describe(self) -> str:
        """The published results, the data and the time, e.g. box AP 38.2, mask AP 34.8 on COCO val2017; ..."""
        scores = {"box": self.box, "mask": self.mask, "keypoint": self.keypoints}
        found = [f"{kind} {self.metric} {value}" for kind, value in scores.items() if value is not None]
        found += [] if self.recall is None else [f"proposal AR1000 {self.recall}"]
        results = f"{', '.join(found)} on {self.evaluated_on}" if found else "no published results"
        time = f"{self.hours:g} hours on " if self.hours else ""
        hardware = f"; {time}{self.hardware}" if self.hardware else ""
        return f"{results}, trained on {self.trained_on}{hardware}"

    def with_published_batch(
        self, settings: TrainConfig, processes: int, given: Collection[str]
    ) -> tuple[TrainConfig, dict[str, str]]:
        """`settings` with `accumulate` chosen for the published images per step or fewer, and the reason.

        `given`: names of the settings that the user gave; `accumulate` does not change if it is one of them.
        """
        if "accumulate" in given:
            return settings, {}
        each = settings.batch_size * processes
        accumulate = max(1, self.images_per_step // each)
        reached = counted(accumulate * each, "image")
        how = "for" if accumulate * each == self.images_per_step else f"{reached} per step, in place of"
        reason = f"{how} the {counted(self.images_per_step, 'image')} per step of recipe {self.name}"
        return replace(settings, accumulate=accumulate), {"accumulate": reason}

    def with_evaluations(
        self, settings: TrainConfig, *, images: int, processes: int, given: Collection[str]
    ) -> tuple[TrainConfig, dict[str, str]]:
        """`settings` with the steps between evaluations that follow from `evaluate_epochs`, and the reason.

        `images`: number of training images. `given`: names of the settings that the user gave, which do not change.
        """
        if not self.evaluate_epochs or "evaluate_every" in given:
            return settings, {}
        each = settings.images_per_step(processes)
        # rounded up: the last epoch ends with the run, not a few steps before
        steps = max(1, math.ceil(self.evaluate_epochs * images / each))
        epochs = "epoch" if self.evaluate_epochs == 1 else f"{self.evaluate_epochs:g} epochs"
        reason = f"recipe {self.name}: every {epochs} of {counted(images, 'image')}, {each} per step"
        return replace(settings, evaluate_every=steps), {"evaluate_every": reason}
