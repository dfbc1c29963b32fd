"""Masks to polygons: filled again, by slow obvious code and by pycocotools, they give the mask."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as pycoco

from rcnn.ops.contours import joined, mask_parts

Mask = npt.NDArray[np.bool_]


def filled(polygons: list[npt.NDArray[np.float64]], size: tuple[int, int]) -> Mask:
    """The pixels whose centres are inside an odd number of polygons."""
    mask = np.zeros(size, dtype=bool)
    for y in range(size[0]):
        for x in range(size[1]):
            for polygon in polygons:
                for (x1, y1), (x2, y2) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
                    crosses = (y1 > y + 0.5) != (y2 > y + 0.5)
                    if crosses and x + 0.5 < x1 + (y + 0.5 - y1) * (x2 - x1) / (y2 - y1):
                        mask[y, x] ^= True
    return mask


def shapes() -> dict[str, Mask]:
    """Masks with one pixel, corners that touch, holes, an island in a hole, noise."""
    one = np.zeros((3, 4), bool)
    one[1, 2] = True
    island = np.zeros((12, 13), bool)
    island[1:11, 1:12] = True
    island[3:9, 3:10] = False
    island[5:7, 5:8] = True
    noise = np.random.default_rng(0).random((14, 15)) < 0.55
    checks = np.indices((5, 6)).sum(0) % 2 == 0
    return {"one": one, "island": island, "noise": noise, "checks": checks, "full": np.ones((4, 5), bool)}


@pytest.mark.parametrize("name", shapes())
def test_exact_outlines_give_the_mask(name: str) -> None:
    mask = shapes()[name]
    parts = mask_parts(mask, tolerance=0)
    polygons = [polygon for part in parts for polygon in (part.outline, *part.holes)]
    np.testing.assert_array_equal(filled(polygons, mask.shape), mask)
    one = joined(polygons)
    np.testing.assert_array_equal(filled([one], mask.shape), mask)
    rle = pycoco.frPyObjects([one.reshape(-1).tolist()], *mask.shape)
    np.testing.assert_array_equal(pycoco.decode(rle)[..., 0].astype(bool), mask)


def test_parts_have_their_own_holes() -> None:
    outer, inner = mask_parts(shapes()["island"])
    assert [len(part.holes) for part in (outer, inner)] == [1, 0]
    assert inner.outline.min(axis=0).tolist() == [5, 5]
    assert outer.holes[0].max(axis=0).tolist() == [10, 9]
    assert mask_parts(np.zeros((3, 3), bool)) == []


def test_a_disc_has_few_corners() -> None:
    y, x = np.indices((100, 120)) + 0.5
    disc = (x - 60) ** 2 + (y - 50) ** 2 < 40**2
    (part,) = mask_parts(disc)
    (exact,) = mask_parts(disc, tolerance=0)
    assert len(part.outline) < 50 < len(exact.outline)
    again = filled([part.outline], disc.shape)
    assert (again & disc).sum() / (again | disc).sum() > 0.985
