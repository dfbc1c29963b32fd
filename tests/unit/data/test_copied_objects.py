"""Copy-paste, and keypoints under flip and affine together, with random samples: the objects follow the pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given

from rcnn.data.transforms import Affine, CopyPaste, Sample, augment
from rcnn.data.transforms.steps import Scene
from rcnn.ops.rle import outline_mask
from tests.narrow import present
from tests.unit.data.test_augmentation import (
    FEW,
    MODEL,
    SEEDS,
    Settings,
    assert_consistent,
    random_sample,
)


def numbered(sample: Sample, first: int) -> Sample:
    """The sample with labels from `first` on, and a background of its own in the image."""
    return replace(sample, labels=sample.labels + first, image=torch.where(sample.image == 128, first, sample.image))


def masks_of(sample: Sample) -> dict[int, torch.Tensor]:
    """The outlines of the objects as pixels (H, W), by label."""
    pairs = zip(sample.labels.tolist(), present(sample.outlines), strict=True)
    return {label: torch.from_numpy(outline_mask(edges, sample.size)) for label, edges in pairs}


@FEW
@given(SEEDS)
def test_copy_paste_of_random_samples(seed: int) -> None:
    """Each pixel is that of the front object, and each object keeps the pixels that no pasted one covers."""
    random = np.random.default_rng(seed)
    before, other = numbered(random_sample(random), 0), numbered(random_sample(random), 100)
    step, scene = CopyPaste(probability=1, fraction=0.6), Scene(frame=None, other=lambda random: other)
    after = step(before, random, scene)
    assert_consistent(after, border=0)
    theirs, found = masks_of(other), masks_of(after)
    cover = torch.zeros(before.size, dtype=torch.bool)
    for label in (label for label in found if label >= 100):
        cover |= theirs[label]
        assert torch.equal(found[label], theirs[label])
    assert torch.equal(after.image, torch.where(cover, other.image, before.image))
    for label, mask in masks_of(before).items():
        left = mask & ~cover
        if label in found:
            assert torch.equal(found[label], left)
        else:  # removed: nothing, or less than a pixel's width, is left of it
            assert left.any(0).sum() <= 1 or left.any(1).sum() <= 1
    for label, points in zip(after.labels.tolist(), present(after.keypoints), strict=True):
        source = other if label >= 100 else before
        assert points[0, :2].tolist() == present(source.keypoints)[label % 100, 0, :2].tolist()
        x, y, seen = points[0].tolist()
        assert seen == (1 if label < 100 and cover[int(y), int(x)] else 2)


@pytest.mark.parametrize("size", [(60, 130), (130, 72)])
@FEW
@given(seed=SEEDS)
def test_copy_paste_of_a_sample_of_another_size(size: tuple[int, int], seed: int) -> None:
    """All pasted objects move by the same whole pixels, with the pixels of their image."""
    random = np.random.default_rng(seed)
    before, other = numbered(random_sample(random), 0), numbered(random_sample(random, *size), 100)
    step, scene = CopyPaste(probability=1, fraction=1), Scene(frame=None, other=lambda random: other)
    after = step(before, random, scene)
    assert after.size == before.size
    assert_consistent(after, border=0)
    moves, masks = set[tuple[float, float]](), masks_of(after)
    for label, points in zip(after.labels.tolist(), present(after.keypoints), strict=True):
        x, y, seen = points[0].tolist()
        column, row, _ = present((other if label >= 100 else before).keypoints)[label % 100, 0].tolist()
        if seen:
            moves |= {(x - column, y - row)} if label >= 100 else set()
            assert label >= 100 or (x, y) == (column, row)
    assert len(moves) <= 1
    for left, top in moves:
        for label in (label for label in masks if label >= 100):
            rows, columns = masks[label].nonzero().unbind(1)
            expected = other.image[:, rows - int(top), columns - int(left)]
            assert torch.equal(after.image[:, rows, columns], expected)


@FEW
@given(SEEDS)
def test_keypoint_pairs_under_flip_and_affine_together(seed: int) -> None:
    """A left keypoint has its place on the right side of the flipped object, wherever affine moved it."""
    random = np.random.default_rng(seed)
    sample = random_sample(random)
    image, keypoints = sample.image.clone(), present(sample.keypoints).clone()
    colours = {0: torch.tensor([255, 0, 0]), 1: torch.tensor([0, 255, 0])}
    for index, place in enumerate([(24, 20), (60, 44)]):  # of one object, in a square of its colour
        column, row = place
        image[:, row : row + 9, column : column + 9] = colours[index][:, None, None]
        keypoints[0, index] = torch.tensor([column + 4.5, row + 4.5, 2])
    sample = replace(sample, image=image, keypoints=keypoints).subset(np.array([True, False, False]))
    step = Affine(probability=1, degrees=25, shift=0.05, shear=10, scale=(0.9, 1.2))
    config = replace(MODEL, min_size=min(sample.size), max_size=max(sample.size))
    settings = Settings(augment=(step,), flip=1.0)
    after = augment(sample, settings, config, (0, seed), ((0, 1),))[0]
    height, width = after.size
    for points in present(after.keypoints):
        for index, (x, y, seen) in enumerate(points.tolist()):
            if seen and 2 < x < width - 2 and 2 < y < height - 2:
                assert (after.image[:, int(y), int(x)].int() - colours[1 - index]).abs().max() <= 16
