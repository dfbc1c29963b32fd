"""Makes the network's input from a training sample: resizes it and augments it at random.

The order: the steps of `train.augment` that change the file's image (crop, and the user's own with `before_resize`);
the resize to one of `train.scales`, or the step scale_jitter; `train.jitter`; the other steps; `train.flip`. Steps of
one stage are applied in the order of the list.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from rcnn.data.transforms.colour import jitter
from rcnn.data.transforms.cutting import cut
from rcnn.data.transforms.geometry import Colour, filled, flip, preprocess, to_input
from rcnn.data.transforms.sample import Sample
from rcnn.data.transforms.steps import (
    Blur,
    ColourJitter,
    OwnStep,
    RandomCrop,
    ScaleJitter,
    Scene,
    Step,
    scale_jitter_of,
    within,
)
from rcnn.preprocess import Frame, InputConfig, build_preprocessor
from rcnn.preprocess.resizing import resize_for_training, resize_image

Seed = Sequence[int]


class Augmentation(Protocol):
    """The training settings that `augment` reads."""

    @property
    def flip(self) -> float:
        """Probability of a horizontal flip."""
        ...

    @property
    def drawn_scales(self) -> tuple[int, ...]:
        """Sizes of the shorter side to draw from, pixels; empty: the size in the input settings."""
        ...

    @property
    def jitter(self) -> float:
        """Largest relative change of brightness, contrast and saturation."""
        ...

    @property
    def augment(self) -> tuple[Step, ...]:
        """The other steps."""
        ...


def augment(
    sample: Sample,
    settings: Augmentation,
    input_config: InputConfig,
    seed: Seed,
    pairs: Sequence[tuple[int, int]] = (),
    other: Callable[[Seed], Sample | None] = lambda seed: None,
) -> tuple[Sample, Frame]:
    """A sample resized for the model and augmented at random, and the frame of the resize (without later steps).

    All random numbers depend on `seed` only (the run's seed and the position in its stream), so the result does not
    depend on the process that computes it. Every number is drawn whether it is used or not, and each step has its own
    generator, chosen by the kind of the step: neither another setting nor a step of another kind changes its draws.
    `other(seed)` is another image of the data set, as `resized_and_flipped` returns it, for steps that use one.
    """
    generator, drawn_input = _draw_input(settings, input_config, seed)
    flipped = generator.random() < settings.flip
    factors = [max(0.0, 1 + settings.jitter * value) for value in generator.uniform(-1, 1, 3).tolist()]
    fill = mean_colour(input_config)
    for step, step_generator in _steps_of_stage(settings, seed, before_resize=True):
        sample = step(sample, step_generator, Scene(frame=None, fill=fill))
    sample, frame = _resize(sample, settings, drawn_input, seed)
    if settings.jitter:  # after the resize, because the resized image is usually much smaller
        sample = replace(sample, image=within(sample.image, frame, lambda image: jitter(image, *factors)))
    place: Frame | None = frame
    for step, step_generator in _steps_of_stage(settings, seed, before_resize=False):
        scene = Scene(frame=place, fill=fill, other=lambda random: other([*seed, int(random.integers(2**63))]))
        sample = step(sample, step_generator, scene)
        if not isinstance(step, ColourJitter | Blur):
            place = None  # the photo may be elsewhere now, and other objects beside it
    return flip(sample, pairs) if flipped else sample, frame


def resized_and_flipped(
    sample: Sample,
    settings: Augmentation,
    input_config: InputConfig,
    seed: Seed,
    pairs: Sequence[tuple[int, int]] = (),
) -> Sample:
    """A sample that is only resized and flipped at random: the source of pasted objects."""
    generator, drawn_input = _draw_input(settings, input_config, seed)
    flipped = generator.random() < settings.flip
    sample, _ = _resize(sample, settings, drawn_input, seed)
    return flip(sample, pairs) if flipped else sample


def augmented_size(
    original: tuple[int, int], settings: Augmentation, input_config: InputConfig, seed: Seed
) -> tuple[int, int]:
    """The (height, width) of an image of size `original` after `augment` with the same arguments."""
    scale_jitter = scale_jitter_of(settings.augment)
    if scale_jitter is not None:
        return scale_jitter.size, scale_jitter.size
    for step, step_generator in _steps_of_stage(settings, seed, before_resize=True):
        if isinstance(step, RandomCrop):
            _, _, *size = step.window(original, step_generator)
            original = size[0], size[1]
    return build_preprocessor(_draw_input(settings, input_config, seed)[1]).frame(original).size


def size_when_decoded(
    original: tuple[int, int], settings: Augmentation, input_config: InputConfig, seed: Seed
) -> tuple[int, int] | None:
    """The (height, width) to which `augment` resizes an image of size `original`, if it does so first; else None.

    Also None if the input is placed on a canvas, and if the resize does not antialias: decoding at a fraction of the
    size smooths the image.
    """
    steps = settings.augment
    if input_config.resize != "antialias" or input_config.canvas:
        return None
    if scale_jitter_of(steps) is not None or any(_is_before_resize(step) for step in steps):
        return None
    return build_preprocessor(_draw_input(settings, input_config, seed)[1]).resized_size(original)


def mean_colour(input_config: InputConfig) -> Colour:
    """The colour (RGB) that the model's normalisation maps to 0, the value of the padding of a batch."""
    first, second, third = input_config.pixel_mean
    return (third, second, first) if input_config.channel_order == "bgr" else (first, second, third)


def _resize(sample: Sample, settings: Augmentation, drawn_input: InputConfig, seed: Seed) -> tuple[Sample, Frame]:
    """A sample in the network's input, and its frame."""
    for step, step_seed in _with_seeds(settings.augment, seed):
        if isinstance(step, ScaleJitter):
            frame = step.frame(sample.size, np.random.default_rng(step_seed))
            image = _resize_window(sample.image, frame, drawn_input)
            return cut(to_input(sample, image, frame, drawn_input.resize), before=sample.bitmaps), frame
    return preprocess(sample, build_preprocessor(drawn_input, resize_for_training))


def _resize_window(image: Tensor, frame: Frame, config: InputConfig) -> Tensor:
    """The network's image (3, *frame.size): the part of the resized image (3, H, W) inside it, else the mean colour."""
    (height, width), (top, left), (rows, columns) = frame.resized, frame.corner, frame.size
    y, x = -top, -left  # top left corner of the part in the resized image
    h, w = min(rows, height - y), min(columns, width - x)
    if config.resize == "antialias":  # computes only the part, with the same pixels as in the whole image
        scale_x, scale_y = frame.to_original_scale
        box = (x * scale_x, y * scale_y, (x + w) * scale_x, (y + h) * scale_y)
        pillow = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
        part = torch.from_numpy(np.array(pillow.resize((w, h), Image.Resampling.BILINEAR, box=box))).permute(2, 0, 1)
    else:
        part = resize_image(image, frame.resized, config.resize)[:, y : y + h, x : x + w]
    if (h, w) == frame.size:
        return part
    canvas = filled(frame.size, mean_colour(config), part.dtype)
    canvas[:, :h, :w] = part
    return canvas


def _steps_of_stage(
    settings: Augmentation, seed: Seed, *, before_resize: bool
) -> list[tuple[Callable[[Sample, np.random.Generator, Scene], Sample], np.random.Generator]]:
    """The steps of one stage with their random generators."""
    return [
        (step, np.random.default_rng(step_seed))
        for step, step_seed in _with_seeds(settings.augment, seed)
        if not isinstance(step, ScaleJitter) and _is_before_resize(step) == before_resize
    ]


def _is_before_resize(step: Step) -> bool:
    return isinstance(step, RandomCrop) or (isinstance(step, OwnStep) and step.before_resize)


def _with_seeds(steps: Sequence[Step], seed: Seed) -> list[tuple[Step, list[int]]]:
    """The steps, each with the seed of its generator: `seed`, its kind, and how many of the kind are listed up to it.

    Own steps are of one kind if their functions have the same name. The last number is never 0: numpy fills short seeds
    with zeros, so [a, b, c] and [a, b, c, 0] are the same seed.
    """
    listed = Counter[str]()
    seeded: list[tuple[Step, list[int]]] = []
    for step in steps:
        kind = f"own {step.factory.rpartition(':')[2]}" if isinstance(step, OwnStep) else step.kind
        listed[kind] += 1
        seeded.append((step, [*_nonnegative(seed), zlib.crc32(kind.encode()), listed[kind]]))
    return seeded


def _draw_input(
    settings: Augmentation, input_config: InputConfig, seed: Seed
) -> tuple[np.random.Generator, InputConfig]:
    """The random generator of `seed` after its first draw, and the input settings with the shorter side drawn."""
    generator = np.random.default_rng(_nonnegative(seed))
    sides = settings.drawn_scales or (input_config.min_size,)
    return generator, replace(input_config, min_size=sides[int(generator.random() * len(sides))])


def _nonnegative(seed: Seed) -> list[int]:
    """`seed` with numbers that numpy accepts."""
    return [number % 2**64 for number in seed]
