"""Colours change where the photo is, and everywhere once a step has moved it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rcnn.data.transforms import Affine, ColourJitter, Sample, ScaleJitter, Step, augment
from rcnn.preprocess import InputConfig

MODEL = InputConfig(min_size=70, max_size=90, pixel_mean=(10.0, 20.0, 30.0))


@dataclass(frozen=True, kw_only=True)
class Settings:
    augment: tuple[Step, ...]
    flip: float = 0.0
    drawn_scales: tuple[int, ...] = ()
    jitter: float = 0.0


def image_after(*steps: Step, seed: int) -> torch.Tensor:
    """An image (3, 90, 90) that was one grey, 100, after the steps."""
    sample = Sample(
        image=torch.full((3, 70, 90), 100, dtype=torch.uint8), boxes=torch.zeros(0, 4), labels=torch.zeros(0).long()
    )
    return augment(sample, Settings(augment=steps), MODEL, (0, seed))[0].image


def test_colours_change_everywhere_after_a_step_that_moves_the_photo() -> None:
    """The photo has half its size, with the mean colour beside it; `affine` moves it out of its place."""
    jitter = ScaleJitter(scale=(0.5, 0.5), size=90)
    moved = Affine(probability=1, degrees=0, shift=0.3, scale=(1.0, 1.0), shear=0)
    colour = ColourJitter(brightness=0.5, contrast=0, saturation=0, hue=0, probability=1)
    for seed in range(5):
        photo = (image_after(jitter, moved, seed=seed) == 100).all(0)
        changed = image_after(jitter, moved, colour, seed=seed)[:, photo]
        assert changed.unique(dim=1).shape[1] == 1, "one colour, without an edge"
        assert not (changed == 100).all()
