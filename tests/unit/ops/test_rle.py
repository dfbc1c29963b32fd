"""Run lengths and outlines of bitmaps, against pycocotools and the op that fills outlines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rcnn.ops.coco_backend import as_rle, encode_mask, encode_pasted, rle_area, rle_areas, rle_box, rle_boxes, rle_mask
from rcnn.ops.polygons import rasterize_polygons
from rcnn.ops.rle import mask_outline

coco_mask = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

SHAPES = [(1, 1), (1, 9), (9, 1), (13, 17), (40, 25)]


def masks_of(height: int, width: int) -> list[np.ndarray]:
    """Empty, full, stripes both ways, noise of several densities, blocks that touch the borders."""
    rng = np.random.default_rng(height * 100 + width)
    masks = [np.zeros((height, width), dtype=bool), np.ones((height, width), dtype=bool)]
    masks += [np.indices((height, width))[axis] % 2 == first for axis in (0, 1) for first in (0, 1)]
    masks += [rng.random((height, width)) < density for density in (0.02, 0.5, 0.98)]
    block = np.zeros((height, width), dtype=bool)
    block[height // 2 :, : (width + 1) // 2] = True
    return [*masks, block]


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_encoding_equals_pycocotools(height: int, width: int) -> None:
    for mask in masks_of(height, width):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        rle = encode_mask(mask)
        assert rle == {"size": [height, width], "counts": expected["counts"].decode()}
        assert np.array_equal(rle_mask(rle), mask)
        assert rle_area(rle) == mask.sum()
        assert rle_box(rle) == tuple(coco_mask.toBbox(expected))


def test_a_region_is_encoded_as_its_canvas() -> None:
    height, width = 23, 31
    for mask in masks_of(7, 9) + masks_of(23, 1) + masks_of(1, 31):
        for x0, y0 in ((0, 0), (width - mask.shape[1], height - mask.shape[0]), (3, 2)):
            if x0 + mask.shape[1] > width or y0 + mask.shape[0] > height:
                continue
            canvas = np.zeros((height, width), dtype=bool)
            canvas[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
            assert encode_pasted(x0, y0, mask, (height, width)) == encode_mask(canvas)
    nothing = encode_pasted(5, 5, np.zeros((0, 4), dtype=bool), (height, width))
    assert nothing == encode_mask(np.zeros((height, width), dtype=bool))


def test_a_region_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_pasted(5, 0, np.ones((3, 3), dtype=bool), (10, 7))


def test_every_kind_of_segmentation_becomes_the_same_run_lengths() -> None:
    polygons = [[2.0, 3.0, 20.0, 4.0, 15.5, 18.0], [10.0, 10.0, 28.0, 10.0, 28.0, 22.0, 10.0, 22.0]]
    expected = coco_mask.merge(coco_mask.frPyObjects(polygons, 30, 40))
    mask = coco_mask.decode(expected).astype(bool)
    flat = np.concatenate([[False], mask.flatten(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff([0, *changes, mask.size]).tolist()
    compressed = expected["counts"]
    for segmentation in (
        polygons,
        {"size": [30, 40], "counts": runs},
        {"size": [30, 40], "counts": compressed},
        {"size": [30, 40], "counts": compressed.decode()},
    ):
        rle = as_rle(segmentation, 30, 40)
        assert rle["counts"] == compressed
        assert np.array_equal(rle_mask(rle), mask)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([], "a segmentation has no polygons; expected at least one"),
        ([[1.0, 2.0, 3.0, 4.0]], "three points"),
        ([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]], "three points"),
        ({"size": [5, 4], "counts": [20]}, "size"),
        ({"size": [4, 5], "counts": [19]}, "add up"),
        ({"size": [4, 5], "counts": [-1, 21]}, "are damaged; expected 4 x 5 = 20 pixels"),
        ({"size": [4, 5], "counts": "01"}, "add up to 1; expected 4 x 5 = 20 pixels"),
        ({"size": [4, 5], "counts": b"P"}, "are damaged"),
        ({"size": [4, 5]}, "counts"),
    ],
)
def test_a_broken_segmentation_is_refused(segmentation: list[list[float]] | dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_rle(segmentation, 4, 5)


@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_an_outline_filled_is_the_bitmap(height: int, width: int) -> None:
    side = max(height, width)
    for mask in masks_of(height, width):
        outline = torch.from_numpy(mask_outline(mask))
        edges = torch.cat([outline, torch.zeros(len(outline), 1)], 1)
        whole = torch.tensor([[[0.0, 0.0, side, side]]])
        matched, valid = torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
        filled = rasterize_polygons(edges[None, None], matched, whole, valid, side)[0, 0]
        assert np.array_equal(filled.numpy()[:height, :width].astype(bool), mask)
        assert filled.sum() == mask.sum()


def test_straight_edges_are_not_cut() -> None:
    mask = np.zeros((20, 30), dtype=bool)
    mask[3:9, 4:25] = True
    edges = {tuple(edge) for edge in mask_outline(mask).tolist()}
    assert edges == {(4, 3, 25, 3), (4, 9, 25, 9), (4, 3, 4, 9), (25, 3, 25, 9)}
    assert mask_outline(np.zeros((5, 5), dtype=bool)).shape == (0, 4)


def test_many_masks_are_measured_as_one_by_one() -> None:
    random = np.random.default_rng(2)
    masks = [
        random.random(random.integers(1, 12, size=2)) < chance for chance in (0.0, 0.05, 0.3, 1.0) for _ in range(8)
    ]
    expected = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    rles = [encode_mask(mask) for mask in masks]
    assert rle_areas(rles).tolist() == [int(mask.sum()) for mask in masks]
    assert rle_boxes(rles).tolist() == coco_mask.toBbox(expected).tolist()
    assert rle_boxes([]).shape == (0, 4)
