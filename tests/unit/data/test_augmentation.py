"""Steps of augmentation: masks, boxes and keypoints move with the pixels of the image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as TF

from rcnn.data.transforms import (
    Affine,
    Blur,
    ColourJitter,
    CopyPaste,
    OwnStep,
    RandomCrop,
    Sample,
    ScaleJitter,
    Step,
    augment,
    augmented_size,
    flip,
)
from rcnn.data.transforms.copy_paste import paste
from rcnn.data.transforms.cutting import bounds, clip_edges, cut
from rcnn.data.transforms.steps import Scene
from rcnn.ops.rle import mask_outline, outline_mask
from rcnn.preprocess import InputConfig
from rcnn.preprocess.resizing import resize_image
from tests.narrow import present

MODEL = InputConfig(min_size=60, max_size=120, pixel_mean=(10.0, 20.0, 30.0))
FEW = settings(
    max_examples=12,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
SEEDS = st.integers(0, 2**32)


@dataclass(frozen=True, kw_only=True)
class Settings:
    flip: float = 0.0
    drawn_scales: tuple[int, ...] = ()
    jitter: float = 0.0
    augment: tuple[Step, ...] = ()


def closed(points: np.ndarray, part: int = 0) -> np.ndarray:
    """The edges (P, 5) of a polygon (P, 2)."""
    return np.column_stack([points, np.roll(points, -1, axis=0), np.full(len(points), float(part))])


def star(random: np.random.Generator, centre: tuple[float, float], radius: float, part: int = 0) -> np.ndarray:
    """A polygon around `centre`, edges (E, 5)."""
    angles = np.sort(random.uniform(0, 2 * np.pi, 9))
    radii = random.uniform(0.4, 1, 9) * radius
    return closed(np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None] + centre, part)


def random_sample(random: np.random.Generator, height: int = 70, width: int = 90) -> Sample:
    """Three objects: a polygon, one of two parts, and run lengths; their bitmaps; a keypoint in each; one crowd.

    The image has a colour of its own in 8 x 8 pixels around each keypoint.
    """
    x, y = random.uniform(20, width - 20, 3), random.uniform(20, height - 20, 3)
    two = [star(random, (x[1], y[1]), 14), star(random, (x[1] + 9, y[1] - 8), 9, 1)]
    pixels = np.zeros((height, width), dtype=bool)
    pixels[int(y[2]) - 7 : int(y[2]) + 9, int(x[2]) - 5 : int(x[2]) + 12] = random.random((16, 17)) < 0.9
    around = mask_outline(pixels)
    run_lengths = np.column_stack([around, np.zeros(len(around))]).astype(np.float64)
    outlines = (star(random, (x[0], y[0]), 18), np.concatenate(two), run_lengths)
    image = torch.full((3, height, width), 128, dtype=torch.uint8)
    keypoints = torch.zeros(3, 2, 3)
    for number, (column, row) in enumerate(random.permutation([(8, 8), (30, 50), (60, 12)])):
        image[:, row : row + 8, column : column + 8] = torch.tensor([250, 10, 80 * number])[:, None, None]
        keypoints[number, 0] = torch.tensor([column + 4.5, row + 4.5, 2])
    return Sample(
        image=image,
        boxes=torch.from_numpy(np.stack([bounds(edges) for edges in outlines])),
        labels=torch.arange(3),
        outlines=outlines,
        bitmaps=torch.from_numpy(np.stack([outline_mask(edges, (height, width)) for edges in outlines])),
        keypoints=keypoints,
        crowds=torch.tensor([[2.0, 3.0, 80.0, 60.0]]),
    )


def near_border(mask: np.ndarray, distance: int) -> np.ndarray:
    """The pixels (H, W) that have both set and unset pixels within `distance`."""
    plane = torch.from_numpy(mask)[None].float()
    grown = torch.nn.functional.max_pool2d(plane, 2 * distance + 1, 1, distance)
    shrunk = -torch.nn.functional.max_pool2d(-plane, 2 * distance + 1, 1, distance)
    return (grown != shrunk)[0].numpy()


def assert_consistent(after: Sample, *, border: int) -> None:
    """Outlines are the bitmaps (but for `border` pixels around an edge), and boxes are those of the masks."""
    height, width = after.size
    assert len(present(after.outlines)) == len(after.boxes)
    for box, edges, bitmap in zip(after.boxes.numpy(), present(after.outlines), present(after.bitmaps), strict=True):
        drawn = outline_mask(edges, (height, width))
        wrong = drawn != bitmap.numpy()
        thin = near_border(drawn, border) | near_border(bitmap.numpy(), border) if border else np.zeros_like(drawn)
        assert not (wrong & ~thin).any()
        inside = clip_edges(edges, after.size)
        np.testing.assert_allclose(box, bounds(inside), atol=2.0 if border else 1.0)
        assert ((box >= -1e-4) & (box <= np.array([width, height] * 2) + 1e-4)).all()


def run(sample: Sample, *steps: Step, seed: int = 0, flip: float = 0.0) -> Sample:
    """The sample after the steps alone: `MODEL`'s size is that of the sample."""
    config = replace(MODEL, min_size=min(sample.size), max_size=max(sample.size))
    return augment(sample, Settings(augment=steps, flip=flip), config, (0, seed))[0]


def test_an_outline_and_its_pixels() -> None:
    """A bitmap's outline gives the bitmap; a polygon the pixels whose centres a slow crossing test finds inside."""
    random = np.random.default_rng(0)
    bitmap = random.random((20, 31)) < 0.5
    edges = mask_outline(bitmap)
    np.testing.assert_array_equal(outline_mask(np.column_stack([edges, np.zeros(len(edges))]), (20, 31)), bitmap)
    edges = star(random, (12, 9), 15)  # partly outside
    drawn = outline_mask(edges, (20, 31))
    for row in range(20):
        for column in range(31):
            x, y, inside = column + 0.5, row + 0.5, False
            for x1, y1, x2, y2, _ in edges.tolist():
                if (y1 > y) != (y2 > y) and x > x1 + (y - y1) / (y2 - y1) * (x2 - x1):
                    inside = not inside
            assert drawn[row, column] == inside
    assert drawn.any()
    assert not outline_mask(np.zeros((0, 5)), (3, 4)).any()


@FEW
@given(SEEDS)
def test_clipped_outlines_show_the_same_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = 30, 40
    centres = random.uniform(0, 40, (2, 2)).tolist()
    edges = np.concatenate([star(random, (x, y), 25, part) for part, (x, y) in enumerate(centres)])
    clipped = clip_edges(edges, size)
    np.testing.assert_array_equal(outline_mask(clipped, size), outline_mask(edges, size))
    points = clipped[:, :4].reshape(-1, 2)
    assert not len(points) or (points.min() >= 0 and (points <= (40, 30)).all())
    for part in np.unique(clipped[:, 4]):  # closed: each point is the end of an even number of edges
        ends = clipped[clipped[:, 4] == part][:, :4].reshape(-1, 2).round(6)
        assert (np.unique(ends, axis=0, return_counts=True)[1] % 2 == 0).all()


STEPS: dict[str, tuple[Step, int]] = {
    "crop": (RandomCrop(size=(0.4, 0.9)), 1),
    "scale_jitter": (ScaleJitter(scale=(0.6, 1.7), size=80), 2),
    "affine": (Affine(probability=1, degrees=40, shear=20, scale=(0.7, 1.6)), 2),
}


@pytest.mark.parametrize("name", STEPS)
@FEW
@given(SEEDS)
def test_masks_boxes_and_keypoints_follow_the_pixels(name: str, seed: int) -> None:
    step, border = STEPS[name]
    before = random_sample(np.random.default_rng(seed))
    after = run(before, step, seed=seed, flip=0.5)
    assert_consistent(after, border=border)
    places = enumerate(present(before.keypoints)[:, 0].tolist())
    colours = {label: before.image[:, int(y), int(x)].int() for label, (x, y, _) in places}
    for label, points in zip(after.labels.tolist(), present(after.keypoints), strict=True):
        assert points[1].tolist() == [0, 0, 0]
        x, y, seen = points[0].tolist()
        height, width = after.size
        if seen and 1 < x < width - 1 and 1 < y < height - 1:
            assert (after.image[:, int(y), int(x)].int() - colours[label]).abs().max() <= 16
    config = replace(MODEL, min_size=70, max_size=90)
    assert after.size == augmented_size(before.size, Settings(augment=(step,)), config, (0, seed))


def test_a_crop_is_exact() -> None:
    before = random_sample(np.random.default_rng(3))
    step = RandomCrop(size=(0.5, 0.5))
    top, left, height, width = step.window(before.size, np.random.default_rng(7))
    after = step(before, np.random.default_rng(7), Scene(frame=None))
    assert torch.equal(after.image, before.image[:, top : top + height, left : left + width])
    assert_consistent(after, border=0)
    for label, bitmap in zip(after.labels.tolist(), present(after.bitmaps), strict=True):
        expected = present(before.bitmaps)[label, top : top + height, left : left + width]
        assert torch.equal(bitmap, expected)
    gone = set(range(3)) - set(after.labels.tolist())
    for label in gone:
        cropped = present(before.bitmaps)[label, top : top + height, left : left + width]
        assert cropped.any(0).sum() <= 2 or cropped.any(1).sum() <= 2  # less than a pixel is left
    x1, y1, x2, y2 = (present(before.crowds)[0] - torch.tensor([left, top, left, top])).tolist()
    assert present(after.crowds).tolist() == [[max(0, x1), max(0, y1), min(width, x2), min(height, y2)]]


def test_objects_that_are_not_cut_keep_their_annotated_boxes() -> None:
    """An annotated box may differ from its outline; only a cut object gets a new one. Tiny rests are removed."""
    square = closed(np.array([[2.0, 2], [8, 2], [8, 8], [2, 8]]))
    one = Sample(
        image=torch.zeros(3, 20, 20, dtype=torch.uint8),
        boxes=torch.tensor([[1.5, 1.5, 8.5, 8.5], [16.5, 1.5, 23.5, 8.5], [3.0, 3.0, 30.0, 9.0], [19.5, 0, 40.0, 9.0]]),
        labels=torch.arange(4),
        outlines=(square, square + np.array([15, 0, 15, 0, 0]), np.zeros((0, 5)), np.zeros((0, 5))),
        keypoints=torch.tensor([[[5.0, 5, 2]], [[21.0, 5, 2]], [[19.9, 4, 1]], [[0.0, 0, 0]]]),
    )
    after = cut(one, before=None)
    assert after.labels.tolist() == [0, 1, 2]
    assert after.boxes.tolist() == [[1.5, 1.5, 8.5, 8.5], [17, 2, 20, 8], [3, 3, 20, 9]]
    assert present(after.keypoints)[:, 0].tolist() == [[5, 5, 2], [0, 0, 0], [pytest.approx(19.9), 4, 1]]


def test_scale_jitter_fills_with_the_mean_colour() -> None:
    before = random_sample(np.random.default_rng(0))
    after = run(before, ScaleJitter(scale=(0.5, 0.5), size=90))
    assert after.size == (90, 90)
    assert after.image[:, 35:].flatten(1).unique(dim=1).tolist() == [[10], [20], [30]]
    torch.testing.assert_close(after.boxes, before.boxes / 2, atol=0.01, rtol=0)
    whole = run(before, ScaleJitter(scale=(1.5, 1.5), size=90))
    resized = resize_image(before.image, (105, 135), "antialias")
    differences = [
        (resized[:, y : y + 90, x : x + 90].int() - whole.image.int()).abs().max().item()
        for y in range(16)
        for x in range(46)
    ]
    assert sorted(differences)[0] <= 1 < sorted(differences)[1]


def scene_of(other: Sample) -> Scene:
    return Scene(frame=None, other=lambda random: other)


def squares(*places: tuple[int, int, int, int], value: int = 0) -> Sample:
    """Rectangles x1, y1, x2, y2 in an image (40, 50) of one value, each with a keypoint in its middle."""
    corners = [
        closed(np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], dtype=np.float64)) for x1, y1, x2, y2 in places
    ]
    return Sample(
        image=torch.full((3, 40, 50), value, dtype=torch.uint8),
        boxes=torch.tensor(places, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(places)),
        outlines=tuple(corners),
        bitmaps=torch.from_numpy(np.array([outline_mask(edges, (40, 50)) for edges in corners]).reshape(-1, 40, 50)),
        keypoints=torch.tensor([[[(x1 + x2) / 2, (y1 + y2) / 2, 2.0]] for x1, y1, x2, y2 in places]).reshape(-1, 1, 3),
        crowds=torch.tensor([[0.0, 0, 50, 40]]),
    )


def test_pasted_objects_cover_the_others() -> None:
    """Left: half covered. Middle: covered whole. Right: not covered."""
    before = squares((2, 2, 12, 12), (20, 20, 24, 24), (40, 30, 48, 38), value=1)
    other = squares((7, 0, 20, 14), (18, 18, 30, 30), value=9)
    after = paste(before, other)
    assert after.labels.tolist() == [0, 2, 0, 1]
    assert after.boxes.tolist() == [[2, 2, 7, 12], [40, 30, 48, 38], [7, 0, 20, 14], [18, 18, 30, 30]]
    assert_consistent(after, border=0)
    cover = present(other.bitmaps).any(0)
    assert torch.equal(after.image[0], torch.where(cover, 9, 1).byte())
    assert present(after.keypoints)[:, 0].tolist() == [[7, 7, 1], [44, 34, 2], [13.5, 7, 2], [24, 24, 2]]
    assert present(after.crowds).tolist() == [[0, 0, 50, 40]]
    outlines_only = paste(replace(before, bitmaps=None), replace(other, bitmaps=None))
    assert torch.equal(outlines_only.boxes, after.boxes)
    assert paste(before, squares()) is before


def test_copy_paste_takes_a_part_of_the_objects() -> None:
    before, other = squares((2, 2, 12, 12)), squares(*[(5 * n, 20, 5 * n + 4, 24) for n in range(10)], value=9)
    counts = [
        len(CopyPaste(probability=1, fraction=0.3)(before, np.random.default_rng(n), scene_of(other)).boxes) - 1
        for n in range(40)
    ]
    assert 80 <= sum(counts) <= 160
    assert CopyPaste(probability=0)(before, np.random.default_rng(0), scene_of(other)) is before
    assert CopyPaste(probability=1)(before, np.random.default_rng(0), Scene(frame=None)) is before


def test_colours_are_those_of_torchvision() -> None:
    before = random_sample(np.random.default_rng(0))
    grey = run(before, ColourJitter(probability=0, grey=1))
    assert (grey.image[0].int() - TF.rgb_to_grayscale(before.image)[0].int()).abs().max() <= 1
    blurred = run(before, Blur(probability=1, sigma=(1.0, 1.0)))
    assert torch.equal(blurred.image, TF.gaussian_blur(before.image, [7, 7], [1.0, 1.0]))
    hue = run(before, ColourJitter(probability=1, brightness=0, contrast=0, saturation=0, hue=0.5))
    assert not torch.equal(hue.image, before.image)
    assert torch.equal(hue.boxes, before.boxes)
    tiny = replace(before, image=before.image[:, :2, :3])
    assert Blur(probability=1)(tiny, np.random.default_rng(0), Scene(frame=None)).image.shape == (3, 2, 3)


def darker(sample: Sample, random: np.random.Generator, factor: float = 0.5) -> Sample:
    """A step as users write it; it uses torch's global generator too."""
    assert 0 <= torch.rand(()) < 1
    return replace(sample, image=(sample.image * factor).byte())


def test_a_step_of_ones_own() -> None:
    before = random_sample(np.random.default_rng(0))
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    after = run(before, OwnStep(factory=f"{__file__}:darker", arguments={"factor": 0.25}))
    assert torch.equal(after.image, (before.image * 0.25).byte())
    assert torch.equal(torch.rand(3), expected)  # the global generator is as before
    assert torch.equal(run(before, OwnStep.of(darker)).image, (before.image * 0.5).byte())

    def small(sample: Sample, random: np.random.Generator) -> Sample:
        return replace(sample, boxes=sample.boxes * torch.tensor([1, 1, 0, 1]) + torch.tensor([0, 0, 0.5, 0]))

    assert len(run(before, OwnStep.of(small)).boxes) == 0  # the rule about small objects


def no_sample(sample: Sample, random: np.random.Generator) -> object:
    return sample.image


def smaller(sample: Sample, random: np.random.Generator) -> object:
    return replace(sample, image=sample.image[:, 1:])


def floats(sample: Sample, random: np.random.Generator) -> object:
    return replace(sample, image=sample.image / 2)


def no_outlines(sample: Sample, random: np.random.Generator) -> object:
    return replace(sample, outlines=None)


def failing(sample: Sample, random: np.random.Generator) -> object:
    raise RuntimeError("no")


def exiting(sample: Sample, random: np.random.Generator) -> object:
    raise SystemExit(3)


def not_finite(sample: Sample, random: np.random.Generator) -> object:
    return replace(sample, boxes=sample.boxes * torch.nan)


def one_outline(sample: Sample, random: np.random.Generator) -> object:
    return replace(sample, outlines=present(sample.outlines)[:1])


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (no_sample, r"no_sample returned Tensor; expected a Sample"),
        (smaller, r"\(3, 69, 90\); expected \(3, 70, 90\)"),
        (floats, "torch.float32; expected torch.uint8"),
        (no_outlines, "added or removed sample.outlines"),
        (failing, "failing failed: RuntimeError: no"),
        (exiting, "exiting failed: SystemExit: 3"),
        (not_finite, "not_finite returned boxes with NaN or infinite numbers; expected pixels"),
        (one_outline, "sample.outlines has length 1; expected 3, one per box"),
    ],
)
def test_a_faulty_step_of_ones_own_is_named(function: Callable[..., object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(random_sample(np.random.default_rng(0)), OwnStep.of(function))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RandomCrop(size=(0.0, 1.0)), r"crop.size is \[0, 1\]; expected \[lowest, highest\] fractions"),
        (lambda: RandomCrop(size=(0.9, 0.5)), r"crop.size is \[0.9, 0.5\]"),
        (lambda: Blur(probability=1.5), "blur.probability is 1.5; expected a probability between 0 and 1"),
        (lambda: Affine(degrees=400), "affine.degrees is 400; expected degrees between 0 and 180"),
        (lambda: ColourJitter(hue=0.7), "colour.hue is 0.7"),
        (lambda: ScaleJitter(size=0), "scale_jitter.size is 0; expected 1 or more pixels"),
        (lambda: CopyPaste(fraction=-1), "copy_paste.fraction is -1"),
        (lambda: Affine(shift=float("nan")), "affine.shift is nan"),
    ],
)
def test_bad_settings_are_refused(make: Callable[[], Step], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_steps_draw_their_own_numbers() -> None:
    """A step draws the same numbers whatever the other steps are, and on any number of workers."""
    before = random_sample(np.random.default_rng(0))
    alone = run(before, Affine(probability=1), seed=4)
    with_blur = run(before, Affine(probability=1), Blur(probability=1), seed=4)
    assert torch.equal(alone.boxes, with_blur.boxes)
    assert torch.equal(
        flip(run(before, Affine(probability=1), seed=4)).boxes, run(before, Affine(probability=1), seed=4, flip=1).boxes
    )
    assert not torch.equal(alone.boxes, run(before, Affine(probability=1), seed=5).boxes)
