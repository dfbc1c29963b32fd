"""Which objects a step of augmentation removes, by hand; what the steps of users may return."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.data.transforms import OwnStep, RandomCrop, Sample
from rcnn.data.transforms.copy_paste import paste
from rcnn.data.transforms.geometry import crop, warp
from rcnn.data.transforms.steps import Scene
from rcnn.ops.rle import mask_outline
from tests.narrow import present


def sample_of(*objects: tuple[list[int], list[tuple[int, int, int, int]]], outlines: bool = False) -> Sample:
    """Objects with a box and rectangles x1, y1, x2, y2 of mask pixels, in an image (40, 40)."""
    masks = np.zeros((len(objects), 40, 40), dtype=bool)
    for mask, (_, parts) in zip(masks, objects, strict=True):
        for x1, y1, x2, y2 in parts:
            mask[y1:y2, x1:x2] = True
    edges = [mask_outline(mask) for mask in masks]
    return Sample(
        image=torch.zeros(3, 40, 40, dtype=torch.uint8),
        boxes=torch.tensor([box for box, _ in objects], dtype=torch.float32),
        labels=torch.arange(len(objects)),
        outlines=tuple(np.column_stack([one, np.zeros(len(one))]).astype(np.float64) for one in edges)
        if outlines
        else None,
        bitmaps=None if outlines else torch.from_numpy(masks),
    )


# an L, of which only the empty corner of its box is in the part of 15 x 15; one that is cut; one without a mask
L_SHAPE = ([5, 5, 35, 35], [(5, 20, 35, 35), (20, 5, 35, 35)])
CUT = ([2, 10, 9, 30], [(2, 10, 9, 30)])
NO_MASK = ([2, 3, 38, 38], [])


@pytest.mark.parametrize("outlines", [True, False])
def test_an_object_without_a_visible_pixel_is_removed(outlines: bool) -> None:
    before = sample_of(L_SHAPE, CUT, NO_MASK, outlines=outlines)
    cropped = crop(before, 0, 0, (15, 15))
    moved = warp(before, np.array([[1.0, 0, 25], [0, 1, 25]]))  # the same part, at the other end

    offsets = np.array([25, 25, 25, 25, 0])

    def shifted(sample: Sample, random: np.random.Generator) -> Sample:
        return replace(
            sample,
            boxes=sample.boxes + 25,
            outlines=None if sample.outlines is None else tuple(edges + offsets for edges in sample.outlines),
            bitmaps=None if sample.bitmaps is None else sample.bitmaps.roll((25, 25), (1, 2)) & inside,
        )

    inside = torch.zeros(40, 40, dtype=torch.bool)
    inside[25:, 25:] = True
    own = OwnStep.of(shifted)(before, np.random.default_rng(0), Scene(frame=None))
    for after, offset in ((cropped, 0), (moved, 25), (own, 25)):
        assert after.labels.tolist() == [1, 2]
        assert (after.boxes - offset).tolist() == [[2, 10, 9, 15], [2, 3, 15, 15]]


@pytest.mark.parametrize("outlines", [True, False])
def test_a_part_that_ends_at_the_border_is_not_in_the_box(outlines: bool) -> None:
    """The second part of the object ends where the window begins; the third begins where it ends."""
    parts = [(5, 5, 20, 12), (5, 14, 10, 20), (18, 16, 25, 30)]
    after = crop(sample_of(([5, 5, 25, 30], parts), outlines=outlines), 0, 10, (40, 8))
    assert after.boxes.tolist() == [[0, 5, 8, 12]]


@pytest.mark.parametrize("outlines", [True, False])
def test_what_is_visible_outside_the_box_of_a_covered_object(outlines: bool) -> None:
    """The box and the mask of the first object contradict each other; what they share is covered."""
    before = sample_of(([20, 5, 35, 35], [(0, 0, 30, 10)]), ([0, 20, 10, 30], [(0, 20, 10, 30)]), outlines=outlines)
    after = paste(before, sample_of(([18, 0, 30, 12], [(18, 0, 30, 12)]), outlines=outlines))
    assert after.labels.tolist() == [1, 0]
    assert after.boxes.tolist() == [[0, 20, 10, 30], [18, 0, 30, 12]]


def step_that_returns(after: Sample) -> OwnStep:
    def step(sample: Sample, random: np.random.Generator) -> Sample:
        return after

    return OwnStep(factory="steps.py:mine", function=step)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("boxes", np.zeros((2, 4)), "boxes of type ndarray; expected a tensor"),
        ("boxes", torch.zeros(2, 3), r"boxes of \(2, 3\); expected \(N, 4\)"),
        ("labels", torch.tensor([0.5, 1.5]), r"labels of torch\.float32; expected torch\.int64"),
        ("labels", torch.zeros(2, 1, dtype=torch.int64), r"labels of \(2, 1\); expected \(N,\)"),
        ("bitmaps", torch.zeros(2, 40, 40, dtype=torch.uint8), r"bitmaps of torch\.uint8; expected torch\.bool"),
        ("bitmaps", torch.zeros(2, 39, 40).bool(), r"bitmaps of \(2, 39, 40\); expected \(N, 40, 40\)"),
        ("crowds", torch.zeros(1, 2), r"crowds of \(1, 2\); expected \(N, 4\)"),
        ("keypoints", [[[1.0, 2, 2]]] * 2, "keypoints of type list; expected a tensor"),
    ],
)
def test_the_fields_of_a_sample_of_ones_own_step(field: str, value: object, message: str) -> None:
    before = replace(sample_of(L_SHAPE, CUT), crowds=torch.zeros(1, 4), keypoints=torch.zeros(2, 1, 3))
    fields: dict[str, Any] = {field: value}
    with pytest.raises(ValueError, match=rf"steps\.py:mine returned sample\.{message}"):
        step_that_returns(replace(before, **fields))(before, np.random.default_rng(0), Scene(frame=None))


def test_the_outlines_of_ones_own_step_have_five_columns() -> None:
    before = sample_of(L_SHAPE, outlines=True)
    changed = replace(before, outlines=tuple(edges[:, :4] for edges in present(before.outlines)))
    with pytest.raises(ValueError, match=r"returned sample\.outlines\[0\] of \(\d+, 4\); expected an array \(E, 5\)"):
        step_that_returns(changed)(before, np.random.default_rng(0), Scene(frame=None))


def test_a_number_in_the_place_of_a_range() -> None:
    with pytest.raises(ValueError, match=r"crop\.size is 0\.5; expected \[lowest, highest\] fractions of the image"):
        RandomCrop(size=0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["outlines", "bitmaps", "bitmaps in place"])
def test_an_object_is_removed_if_the_function_of_a_user_empties_its_mask(form: str) -> None:
    def erase(sample: Sample, random: np.random.Generator) -> Sample:
        if sample.outlines is not None:
            return replace(sample, outlines=(sample.outlines[0][:0], *sample.outlines[1:]))
        bitmaps = present(sample.bitmaps) if form == "bitmaps in place" else present(sample.bitmaps).clone()
        bitmaps[0] = False
        return replace(sample, bitmaps=bitmaps)

    before = sample_of(CUT, L_SHAPE, NO_MASK, outlines=form == "outlines")
    after = OwnStep.of(erase)(before, np.random.default_rng(0), Scene(frame=None))
    assert after.labels.tolist() == [1, 2]


def test_the_function_of_a_user_may_reorder_objects() -> None:
    def reverse(sample: Sample, random: np.random.Generator) -> Sample:
        return replace(
            sample, boxes=sample.boxes.flip(0), labels=sample.labels.flip(0), bitmaps=present(sample.bitmaps).flip(0)
        )

    after = OwnStep.of(reverse)(sample_of(L_SHAPE, NO_MASK), np.random.default_rng(0), Scene(frame=None))
    assert after.labels.tolist() == [1, 0]
