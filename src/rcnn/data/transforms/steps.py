"""The steps of augmentation that `train.augment` lists. Each has its settings, and is called with a sample.

A step takes all random numbers from the generator that it is given, so it depends only on the seed, the epoch and the
image. Sizes are (height, width) in pixels; values are drawn uniformly from ranges.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, TypeGuard

import numpy as np
import torch
from torch import Tensor

from rcnn.arguments import shown
from rcnn.data.transforms.colour import adjust, blur
from rcnn.data.transforms.copy_paste import paste
from rcnn.data.transforms.cutting import cut
from rcnn.data.transforms.geometry import Colour, crop, warp
from rcnn.data.transforms.sample import Flags, Sample
from rcnn.own_code import import_factory, path_of
from rcnn.preprocess import Frame

Range = tuple[float, float]
Function = Callable[..., object]  # f(sample, random, **arguments) -> Sample


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What a step may need besides the sample."""

    frame: Frame | None  # where the file's image is in the network's input; None: not resized yet
    fill: Colour = (0, 0, 0)  # the colour outside the image
    # another image of the data set, resized and flipped at random; None: there is no other one
    other: Callable[[np.random.Generator], Sample | None] = lambda random: None


@dataclass(frozen=True, kw_only=True)
class RandomCrop:
    """A random window of the file's image, before it is resized (Detectron2's relative_range)."""

    kind: Literal["crop"] = "crop"
    probability: float = 1.0
    size: Range = (0.5, 1.0)  # height and width of the window as fractions of the image's, drawn separately

    def __post_init__(self) -> None:
        _require_probability("crop.probability", self.probability)
        _require_range("crop.size", self.size, 0, 1, "fractions of the image", open_below=True)

    def window(self, size: tuple[int, int], random: np.random.Generator) -> tuple[int, int, int, int]:
        """(top, left, height, width) in an image of `size`."""
        if random.random() >= self.probability:
            return 0, 0, *size
        height, width = (max(1, round(side * random.uniform(*self.size))) for side in size)
        top, left = random.integers(size[0] - height + 1), random.integers(size[1] - width + 1)
        return int(top), int(left), height, width

    def __call__(self, sample: Sample, random: np.random.Generator, scene: Scene) -> Sample:
        """A random window of a sample."""
        top, left, height, width = self.window(sample.size, random)
        return sample if (height, width) == sample.size else crop(sample, top, left, (height, width))


@dataclass(frozen=True, kw_only=True)
class ScaleJitter:
    """Large-scale jitter (Ghiasi et al. 2021): replaces the resize to input.min_size.

    The image is resized to fit a square of `size` times a random factor, and a random window of `size` x `size` pixels
    of it is taken, filled with the model's mean colour where the image is smaller.
    """

    kind: Literal["scale_jitter"] = "scale_jitter"
    scale: Range = (0.1, 2.0)
    size: int = 1024  # side of the network's input, pixels

    def __post_init__(self) -> None:
        _require_range("scale_jitter.scale", self.scale, 0, 100, "factors", open_below=True)
        if not isinstance(self.size, Integral) or self.size < 1:
            raise ValueError(
                f"train.augment: scale_jitter.size is {shown(self.size, 60)}; expected 1 or more pixels, e.g. 1024"
            )

    def frame(self, original: tuple[int, int], random: np.random.Generator) -> Frame:
        """Where an image of size `original` is in the network's input."""
        factor = self.size * random.uniform(*self.scale) / max(original)
        height, width = (max(1, round(side * factor)) for side in original)
        top, left = (int(random.integers(max(0, side - self.size) + 1)) for side in (height, width))
        return Frame(
            original=original,
            size=(self.size, self.size),
            resized=(height, width),
            corner=(-top, -left),
            to_original_scale=(original[1] / width, original[0] / height),
        )


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Rotation, shift, scale and shear about the centre of the network's input, which keeps its size."""

    kind: Literal["affine"] = "affine"
    probability: float = 0.5
    degrees: float = 10.0  # largest rotation
    shift: float = 0.1  # largest shift, as a fraction of the image's height and width
    scale: Range = (0.9, 1.1)
    shear: float = 5.0  # largest shear along x, degrees

    def __post_init__(self) -> None:
        _require_probability("affine.probability", self.probability)
        _require_between("affine.degrees", self.degrees, 0, 180, "degrees")
        _require_between("affine.shift", self.shift, 0, 1, "a fraction of the image")
        _require_between("affine.shear", self.shear, 0, 80, "degrees")
        _require_range("affine.scale", self.scale, 0, 100, "factors", open_below=True)

    def __call__(self, sample: Sample, random: np.random.Generator, scene: Scene) -> Sample:
        """A sample, rotated, shifted, scaled and sheared."""
        if random.random() >= self.probability:
            return sample
        height, width = sample.size
        turn, shear = np.radians(random.uniform(-1, 1, 2) * (self.degrees, self.shear)).tolist()
        scale = random.uniform(*self.scale)
        centre = np.array([width / 2, height / 2])
        shift = random.uniform(-1, 1, 2) * self.shift * (width, height)
        rotation = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
        linear = scale * rotation @ np.array([[1, math.tan(shear)], [0, 1]])
        return warp(sample, np.column_stack([linear, centre + shift - linear @ centre]), scene.fill)


@dataclass(frozen=True, kw_only=True)
class ColourJitter:
    """Random brightness, contrast, saturation and hue of the image."""

    kind: Literal["colour"] = "colour"
    probability: float = 0.8
    brightness: float = 0.4  # largest relative change
    contrast: float = 0.4  # largest relative change
    saturation: float = 0.4  # largest relative change
    hue: float = 0.0  # largest turn of the colour circle, 0.5: by half of it
    grey: float = 0.0  # probability of an image without colours

    def __post_init__(self) -> None:
        _require_probability("colour.probability", self.probability)
        _require_probability("colour.grey", self.grey)
        for name in ("brightness", "contrast", "saturation"):
            _require_between(f"colour.{name}", getattr(self, name), 0, 1, "a relative change")
        _require_between("colour.hue", self.hue, 0, 0.5, "a fraction of the colour circle")

    def __call__(self, sample: Sample, random: np.random.Generator, scene: Scene) -> Sample:
        """A sample with other colours; the border around the file's image does not change."""
        used, grey = random.random() < self.probability, random.random() < self.grey
        brightness, contrast, saturation = (
            1 + random.uniform(-1, 1, 3) * (self.brightness, self.contrast, self.saturation)
        ).tolist()
        hue = random.uniform(-1, 1) * self.hue
        if not used and not grey:
            return sample
        if not used:
            brightness, contrast, saturation, hue = 1.0, 1.0, 1.0, 0.0
        saturation = 0.0 if grey else saturation
        return replace(
            sample, image=within(sample.image, scene.frame, lambda i: adjust(i, brightness, contrast, saturation, hue))
        )


@dataclass(frozen=True, kw_only=True)
class Blur:
    """Gaussian blur of the image."""

    kind: Literal["blur"] = "blur"
    probability: float = 0.5
    sigma: Range = (0.1, 2.0)  # standard deviation, pixels of the network's input

    def __post_init__(self) -> None:
        _require_probability("blur.probability", self.probability)
        _require_range("blur.sigma", self.sigma, 0, 50, "pixels", open_below=True)

    def __call__(self, sample: Sample, random: np.random.Generator, scene: Scene) -> Sample:
        """A blurred sample."""
        used, sigma = random.random() < self.probability, random.uniform(*self.sigma)
        if not used:
            return sample
        return replace(sample, image=within(sample.image, scene.frame, lambda image: blur(image, sigma)))


@dataclass(frozen=True, kw_only=True)
class CopyPaste:
    """Objects of another image of the data set are pasted (Simple Copy-Paste, Ghiasi et al. 2021).

    The other image is resized and flipped at random like every image, and put at a random place. Pixels that the pasted
    objects cover are removed from the outlines, bitmaps and boxes of the other objects.
    """

    kind: Literal["copy_paste"] = "copy_paste"
    probability: float = 0.5
    fraction: float = 0.5  # probability that an object of the other image is pasted

    def __post_init__(self) -> None:
        _require_probability("copy_paste.probability", self.probability)
        _require_probability("copy_paste.fraction", self.fraction)

    def __call__(self, sample: Sample, random: np.random.Generator, scene: Scene) -> Sample:
        """A sample with objects of another image."""
        if random.random() >= self.probability:
            return sample
        other = scene.other(random)
        if other is None:
            return sample
        other = other.subset(random.random(len(other.boxes)) < self.fraction)
        top, left = (
            int(random.integers(min(0, old - new), max(0, old - new) + 1))
            for old, new in zip(other.size, sample.size, strict=True)
        )
        return paste(sample, crop(other, top, left, sample.size))


def _have_masks(sample: Sample) -> Flags:
    """Whether each object has an outline, or a bitmap with a pixel, (N,)."""
    if sample.outlines is not None:
        return np.array([len(edges) > 0 for edges in sample.outlines], dtype=bool)
    if sample.bitmaps is not None:
        return sample.bitmaps.flatten(1).any(1).numpy()
    return np.zeros(len(sample.boxes), dtype=bool)


@dataclass(frozen=True, kw_only=True)
class OwnStep:
    """A function of the user: f(sample, random, **arguments) -> sample, see docs/augmentation.md."""

    kind: Literal["own"] = "own"
    factory: str  # FILE.py:NAME or PACKAGE.MODULE:NAME of the function
    arguments: Mapping[str, Any] = field(default_factory=dict)  # its keyword arguments
    before_resize: bool = False  # whether it gets the file's image instead of the network's input
    # the function itself, if it was passed from Python; not saved
    function: Callable[..., Any] | None = field(default=None, compare=False, metadata={"saved": False})

    @classmethod
    def of(cls, function: Function) -> OwnStep:
        """The step of a function that was passed from Python."""
        path = path_of(function)
        return cls(factory=path or getattr(function, "__name__", type(function).__name__), function=function)

    def resolved(self) -> Function:
        """The function, imported if only its name is known. Raises ValueError if it cannot be imported."""
        if self.function is not None:
            return self.function
        if ":" not in self.factory:
            raise ValueError(
                f"train.augment: the function {self.factory} cannot be imported; expected FILE.py:NAME or "
                "PACKAGE.MODULE:NAME. A function that was passed from Python must be passed again: augment=[...]"
            )
        return import_factory(self.factory)

    def __call__(self, sample: Sample, random: np.random.Generator, scene: Scene) -> Sample:
        """The checked result of the function. Functions that use torch's global generator get a seeded one.

        Raises ValueError, with the name of the function, if it fails or does not return a valid sample.
        """
        function = self.resolved()
        masked = _have_masks(sample)  # before the function, which may change the arrays in place
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(int(random.integers(2**63)))
            try:
                after = function(sample, random, **self.arguments)
            except (Exception, SystemExit) as error:
                raise ValueError(f"train.augment: {self.factory} failed: {type(error).__name__}: {error}") from error
        checked = self._checked(sample, after)
        now = _have_masks(checked)
        if len(now) == len(masked) and now.sum() < masked.sum():  # the same objects, and it has emptied masks
            checked = checked.subset(~masked | now)
        return cut(checked, before=None)

    def _checked(self, before: Sample, after: object) -> Sample:
        name = f"train.augment: {self.factory}"
        if not isinstance(after, Sample):
            raise ValueError(f"{name} returned {type(after).__name__}; expected a Sample, see docs/augmentation.md")
        for part in ("outlines", "bitmaps", "keypoints", "crowds"):
            if (getattr(after, part) is None) != (getattr(before, part) is None):
                raise ValueError(f"{name} added or removed sample.{part}; expected the same fields as before")
        for part in ("image", "boxes", "labels", "bitmaps", "keypoints", "crowds"):
            if (fault := _fault_of_tensor(part, getattr(before, part), getattr(after, part))) is not None:
                raise ValueError(f"{name} returned sample.{part} of {fault}")
        for number, edges in enumerate(after.outlines or ()):
            if not isinstance(edges, np.ndarray) or edges.ndim != 2 or edges.shape[1] != 5:
                form = edges.shape if isinstance(edges, np.ndarray) else f"type {type(edges).__name__}"
                raise ValueError(f"{name} returned sample.outlines[{number}] of {form}; expected an array (E, 5)")
        if not after.boxes.isfinite().all():
            raise ValueError(f"{name} returned boxes with NaN or infinite numbers; expected pixels")
        return after


Step: TypeAlias = RandomCrop | ScaleJitter | Affine | ColourJitter | Blur | CopyPaste | OwnStep
KINDS: Mapping[str, Callable[[], Step]] = {
    "crop": RandomCrop, "scale_jitter": ScaleJitter, "affine": Affine, "colour": ColourJitter, "blur": Blur,
    "copy_paste": CopyPaste,
}  # fmt: skip


def _fault_of_tensor(part: str, old: Tensor | None, new: object) -> str | None:
    """What is wrong with a field of a sample after an own step; only the number of objects may differ from `old`."""
    if old is None:
        return None
    if not isinstance(new, Tensor):
        return f"type {type(new).__name__}; expected a tensor"
    same_kind = (new.is_floating_point(), new.dtype == torch.bool) == (old.is_floating_point(), old.dtype == torch.bool)
    if new.dtype != old.dtype and (part == "image" or not same_kind):
        return f"{new.dtype}; expected {old.dtype}"
    fixed = 0 if part == "image" else 1  # the first dimension that cannot change
    if new.ndim != old.ndim or new.shape[fixed:] != old.shape[fixed:]:
        sides = ["N"[:fixed], *map(str, old.shape[fixed:])]
        expected = f"({', '.join(side for side in sides if side)}{',' if old.ndim == 1 else ''})"
        keeps = ": a step of your own keeps the size of the image" if part in ("image", "bitmaps") else ""
        return f"{tuple(new.shape)}; expected {expected}{keeps}"
    return None


def within(image: Tensor, frame: Frame | None, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply `change` to the part of the network's `image` (3, h, w) that shows the file; a border does not change."""
    if frame is None:
        return change(image)
    (top, left), (height, width) = frame.corner, frame.resized
    inner = (slice(None), slice(max(0, top), max(0, top + height)), slice(max(0, left), max(0, left + width)))
    if image[inner].shape == image.shape:
        return change(image)
    image = image.clone()
    image[inner] = change(image[inner])
    return image


def scale_jitter_of(steps: Sequence[Step]) -> ScaleJitter | None:
    """The step that replaces the resize, if there is one."""
    return next((step for step in steps if isinstance(step, ScaleJitter)), None)


def require_steps(steps: Sequence[Step], scales: Sequence[int]) -> None:
    """Raise ValueError if the steps cannot be applied together, or not with `scales` (train.scales)."""
    if scales and scale_jitter_of(steps) is not None:
        raise ValueError(
            f"train.augment: scale_jitter replaces the resize, but train.scales is {list(scales)}; expected one of "
            "them: set train.scales=[], or leave scale_jitter out"
        )
    if sum(isinstance(step, ScaleJitter) for step in steps) > 1:
        raise ValueError("train.augment: scale_jitter is listed more than once; it replaces the resize, list it once")


def _require_probability(name: str, value: float) -> None:
    _require_between(name, value, 0, 1, "a probability")


def _require_between(name: str, value: float, low: float, high: float, meaning: str) -> None:
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"train.augment: {name} is {_text(value)}; expected {meaning} between {low:g} and {high:g}")


def _require_range(name: str, value: Range, low: float, high: float, meaning: str, *, open_below: bool = False) -> None:
    expected = f"expected [lowest, highest] {meaning}, {'above' if open_below else 'from'} {low:g} and up to {high:g}"
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(map(_is_number, value)):
        raise ValueError(f"train.augment: {name} is {shown(value)}; {expected}")
    first, last = value
    if not (low < first if open_below else low <= first) or not first <= last <= high:
        raise ValueError(f"train.augment: {name} is [{first:g}, {last:g}]; {expected}")


def _is_number(value: object) -> TypeGuard[float]:
    """Whether `value` is a number of Python or numpy; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _text(value: object) -> str:
    return f"{value:g}" if _is_number(value) else shown(value)
