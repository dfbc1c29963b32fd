"""Transforms against Pillow, torchvision's detection transform, Detectron2's outputs, pycocotools, and loops."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from torchvision.transforms.v2 import functional as TF
from typing_extensions import override

from rcnn.data.transforms import (
    Sample,
    Step,
    augment,
    flip,
    jitter,
    preprocess,
    to_input,
)
from rcnn.preprocess import Frame, InputConfig, Preprocessor, Resize, build_preprocessor
from rcnn.preprocess.resizing import resize_image
from tests.narrow import present


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def edges_of(*parts: list[float]) -> np.ndarray:
    """Edges (E, 5) of polygons given as COCO gives them, by a slow loop."""
    edges: list[list[float]] = []
    for number, part in enumerate(parts):
        points = list(zip(part[::2], part[1::2], strict=True))
        for place, point in enumerate(points):
            edges.append([*point, *points[(place + 1) % len(points)], number])
    return np.array(edges, dtype=np.float64)


def sample(height: int = 40, width: int = 60) -> Sample:
    bitmaps = torch.zeros(2, height, width, dtype=torch.bool)
    bitmaps[0, 5:20, 10:30] = True
    bitmaps[1, 8:9, 50:60] = True
    return Sample(
        image=noise(height, width),
        boxes=torch.tensor([[10.0, 5, 30, 20], [50, 8, 60, 9]]),
        labels=torch.tensor([1, 0]),
        outlines=(edges_of([10, 5, 30, 5, 30, 20], [11, 15, 12, 15, 11, 18]), edges_of([50, 8, 60, 8, 60, 9, 50, 9])),
        bitmaps=bitmaps,
        keypoints=torch.tensor(
            [[[10.5, 5.5, 2], [29.5, 6.5, 1], [0, 0, 0]], [[50.5, 8.5, 2], [0, 0, 0], [59.5, 8.5, 2]]]
        ),
    )


def resize(before: Sample, size: tuple[int, int], kind: Resize) -> Sample:
    """A sample resized to `size`, whatever its aspect ratio."""
    scale = before.size[1] / size[1], before.size[0] / size[0]
    frame = Frame(original=before.size, size=size, resized=size, to_original_scale=scale)
    return to_input(before, resize_image(before.image, size, kind), frame, kind)


def test_resize_moves_objects_with_the_image() -> None:
    before = sample()
    after = resize(before, (60, 120), "antialias")  # y by 1.5, x by 2
    assert after.boxes.tolist() == [[20, 7.5, 60, 30], [100, 12, 120, 13.5]]
    expected = edges_of([20, 7.5, 60, 7.5, 60, 30], [22, 22.5, 24, 22.5, 22, 27])
    np.testing.assert_array_equal(present(after.outlines)[0], expected)
    assert present(after.keypoints)[1].tolist() == [[101, 12.75, 2], [0, 0, 0], [119, 12.75, 2]]
    assert before.boxes[0].tolist() == [10, 5, 30, 20]


@pytest.mark.parametrize("kind", ["antialias", "bilinear"])
def test_bitmaps_are_resized_as_the_peers_do(kind: Resize) -> None:
    before = sample()
    after = resize(before, (33, 47), kind)
    for mask, resized in zip(present(before.bitmaps), present(after.bitmaps), strict=True):
        if kind == "antialias":
            expected = np.array(
                Image.fromarray(mask.numpy().astype(np.uint8)).resize((47, 33), Image.Resampling.NEAREST)
            )
        else:
            expected = torch.nn.functional.interpolate(mask[None, None].float(), size=(33, 47))[0, 0].numpy()
        np.testing.assert_array_equal(resized.numpy(), expected.astype(bool))


def test_flip_by_hand() -> None:
    after = flip(sample(), pairs=[(0, 1)])
    assert torch.equal(after.image[:, :, 0], sample().image[:, :, 59])
    assert after.boxes.tolist() == [[30, 5, 50, 20], [0, 8, 10, 9]]
    assert present(after.keypoints).tolist() == [
        [[30.5, 6.5, 1], [49.5, 5.5, 2], [0, 0, 0]],
        [[0, 0, 0], [9.5, 8.5, 2], [0.5, 8.5, 2]],
    ]


def test_a_flip_keeps_objects_on_their_pixels() -> None:
    """The pixel under a keypoint, and the pixels in a box and an outline, are the same before and after."""
    before, after = sample(), flip(sample())
    for place in range(2):
        for (x, y, seen), (u, v, _) in zip(
            present(before.keypoints)[place].tolist(), present(after.keypoints)[place].tolist(), strict=True
        ):
            if seen:
                assert torch.equal(before.image[:, int(y), int(x)], after.image[:, int(v), int(u)])
        for one in (before, after):
            ys, xs = present(one.bitmaps)[place].nonzero(as_tuple=True)
            around = [xs.min().item(), ys.min().item(), xs.max().item() + 1, ys.max().item() + 1]
            assert one.boxes[place].tolist() == around
    one = edges_of([3, 4, 41.5, 6.25, 20, 33, 7, 20])
    flipped = flip(Sample(image=noise(40, 60), boxes=torch.zeros(1, 4), labels=torch.zeros(1), outlines=(one,)))
    masks = []
    for edges in (one, present(flipped.outlines)[0]):
        rles = coco_mask.frPyObjects([edges[:, :2].reshape(-1).tolist()], 40, 60)
        masks.append(coco_mask.decode(coco_mask.merge(rles)))
    # pycocotools rounds halves to the right, so a flipped outline may differ by pixels that it only grazes
    assert masks[0].sum() > 500
    assert np.abs(masks[0][:, ::-1].astype(int) - masks[1]).sum() <= 0.06 * masks[0].sum()


def test_two_flips_give_the_original_sample() -> None:
    once, twice = sample(), flip(flip(sample(), [(0, 1)]), [(0, 1)])
    assert torch.equal(once.image, twice.image)
    assert torch.equal(once.boxes, twice.boxes)
    assert torch.equal(present(once.keypoints), present(twice.keypoints))
    assert torch.equal(present(once.bitmaps), present(twice.bitmaps))
    np.testing.assert_allclose(present(once.outlines)[0], present(twice.outlines)[0])


def test_no_objects() -> None:
    empty = Sample(
        image=noise(10, 20),
        boxes=torch.zeros(0, 4),
        labels=torch.zeros(0, dtype=torch.int64),
        outlines=(),
        bitmaps=torch.zeros(0, 10, 20, dtype=torch.bool),
        keypoints=torch.zeros(0, 17, 3),
    )
    after = flip(resize(empty, (20, 40), "antialias"))
    assert after.size == (20, 40)
    assert after.boxes.shape == (0, 4)
    assert present(after.keypoints).shape == (0, 17, 3)
    assert present(after.bitmaps).shape == (0, 20, 40)


def test_a_sample_checks_its_number_of_objects() -> None:
    with pytest.raises(ValueError, match=r"sample\.labels has length 1; expected 2, one per box"):
        Sample(image=noise(4, 4), boxes=torch.zeros(2, 4), labels=torch.zeros(1))


def test_jitter_by_hand() -> None:
    image = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    image[0, 0, 0] = 200
    assert torch.equal(jitter(image, 1, 1, 1), image)
    bright = jitter(image, 1.5, 1, 1)
    assert bright[0].tolist() == [[255, 150], [150, 150]]
    grey = jitter(image, 1, 1, 0)[:, 0, 0]  # ITU-R 601: 0.2989 R + 0.587 G + 0.114 B
    assert grey.tolist() == pytest.approx([129, 129, 129], abs=1)


@pytest.mark.parametrize("factors", [(1.2, 0.7, 1.3), (0.8, 1.2, 0.0), (1.5, 1.4, 1.2), (0.0, 0.5, 1.0)])
def test_jitter_is_that_of_torchvision(factors: tuple[float, float, float]) -> None:
    image = noise(16, 18)
    before = image.clone()
    expected = TF.adjust_brightness(image / 255, factors[0])
    expected = 255 * TF.adjust_saturation(TF.adjust_contrast(expected, factors[1]), factors[2])
    torch.testing.assert_close(jitter(image.float(), *factors), expected, atol=1e-3, rtol=0)
    assert jitter(image, *factors).dtype == torch.uint8
    torch.testing.assert_close(jitter(image, *factors).float(), expected, atol=2, rtol=0)
    assert torch.equal(image, before)


def test_jitter_changes_the_resized_image_and_no_border() -> None:
    settings, seed = Settings(flip=0, jitter=0.5), (0, 3)
    plain, changed = (augmented(each, MODEL, seed).image for each in (Settings(flip=0), settings))
    generator = np.random.default_rng(seed)
    generator.random(2)  # of the scale and the flip
    factors = (1 + 0.5 * generator.uniform(-1, 1, 3)).tolist()
    assert torch.equal(changed, jitter(plain, *factors))
    canvas = InputConfig(min_size=20, max_size=64, canvas=64)
    image, frame = augment(sample(), settings, canvas, seed)
    (top, left), (height, width) = frame.corner, frame.resized
    border = torch.ones(image.size, dtype=torch.bool)
    border[top : top + height, left : left + width] = False
    assert border.any()
    assert not image.image[:, border].any()


@dataclass(frozen=True, kw_only=True)
class Settings:
    flip: float = 0.5
    drawn_scales: tuple[int, ...] = ()
    jitter: float = 0.0
    augment: tuple[Step, ...] = ()


MODEL = InputConfig(min_size=20, max_size=100)


def augmented(settings: Settings, config: InputConfig, seed: tuple[int, ...]) -> Sample:
    """The sample, augmented."""
    return augment(sample(), settings, config, seed)[0]


def test_augmentation_depends_on_seed_and_place_only() -> None:
    first = [augmented(Settings(jitter=0.3), MODEL, (3, place)) for place in range(8)]
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    second = [augmented(Settings(jitter=0.3), MODEL, (3, place)) for place in reversed(range(8))][::-1]
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one.image, other.image)
        assert torch.equal(one.boxes, other.boxes)
    assert len({one.image.float().mean().item() for one in first}) == 8
    other = augmented(Settings(jitter=0.3), MODEL, (4, 0))
    assert not torch.equal(other.image, first[0].image)


def test_augmentation_keeps_to_its_settings() -> None:
    plain = resize(sample(), (20, 30), "antialias")
    for place in range(20):
        assert torch.equal(augmented(Settings(flip=0), MODEL, (0, place)).image, plain.image)
        assert torch.equal(augmented(Settings(flip=1), MODEL, (0, place)).image, plain.image.flip(-1))
    sides = [augmented(Settings(drawn_scales=(10, 20, 40)), MODEL, (0, place)).size[0] for place in range(60)]
    assert {side: sides.count(side) > 8 for side in sides} == {10: True, 20: True, 40: True}
    flipped = [torch.equal(augmented(Settings(), MODEL, (0, p)).boxes, plain.boxes) for p in range(100)]
    assert 35 <= sum(flipped) <= 65


def test_settings_are_independent() -> None:
    for place in range(10):
        with_jitter = augmented(Settings(jitter=0.5), MODEL, (0, place))
        assert torch.equal(with_jitter.boxes, augmented(Settings(), MODEL, (0, place)).boxes)


def test_negative_seeds_are_valid() -> None:
    assert augmented(Settings(), MODEL, (-1, 0)).size == (20, 30)


def test_a_sample_on_a_square_canvas() -> None:
    sample = replace(sample_of_one_square(), crowds=torch.tensor([[1.0, 2.0, 5.0, 6.0]]))
    square, frame = preprocess(sample, build_preprocessor(InputConfig(min_size=20, max_size=50, canvas=50)))
    top, left = frame.corner
    assert (top, left) == (15, 9)
    assert square.size == (50, 50)
    assert square.crowds is not None
    assert square.crowds.tolist() == [[1 + left, 2 + top, 5 + left, 6 + top]]
    torch.testing.assert_close(square.boxes, sample.boxes + torch.tensor([left, top, left, top]).float())
    assert square.outlines is not None
    assert sample.outlines is not None
    np.testing.assert_array_equal(square.outlines[0][:, :2], sample.outlines[0][:, :2] + (left, top))
    assert square.bitmaps is not None
    assert sample.bitmaps is not None
    inside = (..., slice(top, top + sample.size[0]), slice(left, left + sample.size[1]))
    assert torch.equal(square.bitmaps[inside], sample.bitmaps)
    assert square.bitmaps.sum() == sample.bitmaps.sum()
    assert torch.equal(square.image[inside], sample.image)
    assert square.image.sum() == sample.image.sum()
    with pytest.raises(ValueError, match="does not fit"):
        preprocess(sample, build_preprocessor(InputConfig(min_size=20, max_size=50, canvas=10)))


def test_training_follows_a_preprocessor_of_ones_own() -> None:
    """A preprocessor that puts the image at (2, 3) of a larger one: objects move with it."""

    class Shifted(Preprocessor):
        @override
        def __call__(self, image: torch.Tensor) -> tuple[torch.Tensor, Frame]:
            resized, frame = super().__call__(image)
            size = frame.size[0] + 2, frame.size[1] + 3
            return torch.nn.functional.pad(resized, (3, 0, 2, 0)), replace(frame, size=size, corner=(2, 3))

    before = sample()
    after, _ = preprocess(before, Shifted(InputConfig(min_size=40, max_size=100)))
    assert after.size == (42, 63)
    assert torch.equal(after.image[:, 2:, 3:], before.image)
    assert after.boxes.tolist() == [[13, 7, 33, 22], [53, 10, 63, 11]]
    assert torch.equal(present(after.bitmaps)[:, 2:, 3:], present(before.bitmaps))
    assert present(after.keypoints)[0].tolist() == [[13.5, 7.5, 2], [32.5, 8.5, 1], [0, 0, 0]]
    np.testing.assert_array_equal(present(after.outlines)[1], edges_of([53, 10, 63, 10, 63, 11, 53, 11]))


def sample_of_one_square() -> Sample:
    """An image (20, 31) with one object of 6 x 5 pixels."""
    bitmap = torch.zeros(1, 20, 31, dtype=torch.bool)
    bitmap[0, 4:9, 7:13] = True
    corners = np.array([[7.0, 4], [13, 4], [13, 9], [7, 9]])
    edges = np.concatenate([corners, np.roll(corners, -1, 0), np.zeros((4, 1))], 1)
    return Sample(
        image=torch.randint(1, 256, (3, 20, 31), dtype=torch.uint8),
        boxes=torch.tensor([[7.0, 4.0, 13.0, 9.0]]),
        labels=torch.tensor([0]),
        outlines=(edges,),
        bitmaps=bitmap,
    )
