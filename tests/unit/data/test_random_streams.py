"""Random numbers of augmentation: each step draws its own, independent of the flip, the scale and the other steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest
import torch

from rcnn.data.transforms import OwnStep, RandomCrop, Sample, ScaleJitter, Step, augment
from rcnn.preprocess import InputConfig

POSITIONS = 400
BOUND = 4 / POSITIONS**0.5  # 4 standard deviations of the correlation of independent numbers
MODEL = InputConfig(min_size=8, max_size=40)


@dataclass(frozen=True, kw_only=True)
class Settings:
    flip: float = 0.5
    drawn_scales: tuple[int, ...] = (8, 10)
    jitter: float = 0.2
    augment: tuple[Step, ...] = ()


def own(name: str, numbers: list[float], *, before_resize: bool = False) -> OwnStep:
    """A step, as a function called `name`, that appends the first number of its generator to `numbers`."""

    def step(sample: Sample, random: np.random.Generator) -> Sample:
        numbers.append(float(random.random()))
        return sample

    step.__name__ = name
    return replace(OwnStep.of(step), before_resize=before_resize)


def gradient() -> Sample:
    """An image that becomes brighter to the right; without objects."""
    image = torch.arange(0, 160, 10, dtype=torch.uint8).expand(3, 8, 16)
    return Sample(image=image, boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64))


def draws(settings: Settings) -> list[tuple[bool, int]]:
    """Whether the image is flipped and its height, at each position of the stream of seed 0 (as the loader seeds)."""
    found: list[tuple[bool, int]] = []
    for position in range(POSITIONS):
        image = augment(gradient(), settings, MODEL, (0, 2, position))[0].image.float()
        found.append((bool(image[..., -1].mean() < image[..., 0].mean()), image.shape[1]))
    return found


def correlation(one: list[float], other: list[float]) -> float:
    return abs(float(np.corrcoef(one, other)[0, 1]))


def test_steps_are_independent_of_the_flip_the_scale_and_each_other() -> None:
    first, second, third = list[float](), list[float](), list[float]()
    steps = own("a", first, before_resize=True), own("b", second), own("b", third)
    found = draws(Settings(jitter=0, augment=steps))
    streams = [first, second, third, [float(flipped) for flipped, _ in found], [float(side) for _, side in found]]
    assert all(len(stream) == POSITIONS for stream in streams)
    for one, other in combinations(streams, 2):
        assert correlation(one, other) < BOUND
    assert abs(np.mean(second) - 0.5) < BOUND


@pytest.mark.parametrize("step", [RandomCrop(size=(0.5, 0.5)), ScaleJitter(scale=(1.0, 2.0), size=8)])
def test_windows_are_independent_of_the_flip(step: RandomCrop | ScaleJitter) -> None:
    """The part of the image that is taken, by its mean brightness."""
    settings = Settings(drawn_scales=(), jitter=0, augment=(step,))
    place = [
        augment(gradient(), replace(settings, flip=0), MODEL, (0, 2, position))[0].image.float().mean().item()
        for position in range(POSITIONS)
    ]
    flipped = [float(one) for one, _ in draws(settings)]
    assert np.std(place) > 1
    assert 0.4 < np.mean(flipped) < 0.6
    assert correlation(place, flipped) < BOUND


def test_a_step_of_another_kind_changes_no_draws() -> None:
    """Also one that is listed before; a second step of the same kind has numbers of its own."""
    runs = [list[float]() for _ in range(6)]
    for numbers, steps in zip(
        runs[:4],
        [
            (own("mine", runs[0]),),
            (RandomCrop(), own("other", runs[4]), own("mine", runs[1])),
            (own("mine", runs[2]), own("other", runs[4])),
            (own("mine", runs[3]), own("mine", runs[5])),
        ],
        strict=True,
    ):
        for position in range(5):
            augment(gradient(), Settings(augment=steps), MODEL, (0, 2, position))
        assert numbers == runs[0]
    assert not {*runs[0]} & {*runs[4], *runs[5]}
    found = list[float]()
    moved = OwnStep(factory="elsewhere/steps.py:mine", function=own("mine", found).function)
    augment(gradient(), Settings(augment=(moved,)), MODEL, (0, 2, 0))
    assert found == runs[0][:1], "where the file of the function is does not matter"
