"""Outlines rasterized in the frames of regions: bit for bit equal to pycocotools as used by Detectron2."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rcnn.ops import polygons as polygons_module
from rcnn.ops.polygons import rasterize_polygons

coco_mask = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools

Outline = list[np.ndarray]  # the parts of an object, (n, 2) float32 points each


def by_pycocotools(outline: Outline, box: np.ndarray, size: int) -> np.ndarray:
    """Detectron2's rasterize_polygons_within_box: the mask (size, size) bool."""
    width, height = box[2] - box[0], box[3] - box[1]
    ratio = np.array([size / max(width, 0.1), size / max(height, 0.1)], dtype=np.float64)
    parts = [((part.astype(np.float64) - box[:2]) * ratio).reshape(-1).tolist() for part in outline]
    if not parts:
        return np.zeros((size, size), dtype=bool)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, size, size))).astype(bool)


def edges_of(outlines: list[Outline], spare: int = 2) -> Tensor:
    """Edges (1, G, E, 5) as `Targets.polygons` has them."""
    most = max(sum(len(part) for part in outline) for outline in outlines) + spare
    edges = torch.full((1, len(outlines), most, 5), -1.0)
    for g, outline in enumerate(outlines):
        start = 0
        for number, part in enumerate(outline):
            points = torch.from_numpy(part)
            end = start + len(part)
            edges[0, g, start:end] = torch.cat([points, points.roll(-1, 0), torch.full((len(part), 1), number)], 1)
            start = end
    return edges


def check(outlines: list[Outline], matched: np.ndarray, boxes: np.ndarray, size: int) -> int:
    """Compare all regions; return the number of mask pixels."""
    ours = rasterize_polygons(
        edges_of(outlines),
        torch.from_numpy(matched)[None],
        torch.from_numpy(boxes)[None],
        torch.ones(1, len(matched), dtype=torch.bool),
        size,
    )
    assert ours.dtype == torch.float32
    pixels = 0
    for mask, index, box in zip(ours[0].numpy(), matched, boxes, strict=True):
        expected = by_pycocotools(outlines[index], box, size)
        assert np.array_equal(mask, expected.astype(np.float32)), (outlines[index], box, size)
        pixels += int(expected.sum())
    return pixels


def random_part(rng: np.random.Generator, kind: str) -> np.ndarray:
    """A random outline (n, 2) float32 in or near an image of 100 pixels."""
    n, centre, radius = int(rng.integers(3, 40)), rng.uniform(-20, 120, 2), rng.choice([0.3, 3, 20, 80])
    scatter = rng.normal(0, radius, (n, 2))
    if kind == "star":
        angle = np.sort(rng.uniform(0, 2 * np.pi, n))
        scatter = radius * rng.uniform(0.6, 1, (n, 1)) * np.stack([np.cos(angle), np.sin(angle)], 1)
    elif kind == "line":
        scatter[:, rng.integers(2)] = 0
    elif kind == "repeated":
        scatter = np.repeat(scatter, 2, 0)
    elif kind == "stairs":
        scatter = np.repeat(np.cumsum(scatter, 0).round(), 2, 0)
        scatter[1::2, 0] = np.roll(scatter[::2, 0], -1)
    points = centre + scatter  # "tangle": crosses itself many times
    if kind in ("whole", "stairs"):
        points = points.round()
    elif kind == "half":
        points = (points * 2).round() / 2
    return points.astype(np.float32)


KINDS = ["tangle", "star", "line", "repeated", "stairs", "whole", "half"]


@pytest.mark.parametrize("kind", KINDS)
def test_random_outlines_equal_pycocotools(kind: str) -> None:
    rng = np.random.default_rng(KINDS.index(kind))
    pixels = 0
    for size in (1, 7, 14, 28, 28, 33):
        outlines = [[random_part(rng, kind) for _ in range(rng.choice([1, 1, 2, 4]))] for _ in range(30)]
        matched = rng.integers(0, 30, 80)
        boxes = np.zeros((80, 4), dtype=np.float32)
        for box, index in zip(boxes, matched, strict=True):
            around = np.concatenate(outlines[index])
            box[:] = np.concatenate([around.min(0), around.max(0)]) + rng.normal(0, 3, 4) * (rng.random() < 0.7)
        boxes[::7, :2] = rng.uniform(-20, 120, (12, 2))  # anywhere, the outline mostly outside
        boxes[::7, 2:] = boxes[::7, :2] + rng.choice([0, 0.05, 0.1, 1, 10, 150], (12, 2))
        boxes[::5] = boxes[::5].round()
        pixels += check(outlines, matched, boxes, size)
    assert pixels > 100 or kind == "line"  # which has no inside


coordinates = st.floats(-50, 150, width=32) | st.integers(-10, 40).map(lambda n: n / 2)
points = st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=12)
sides = st.sampled_from([0.0, 0.05, 0.1, 1.0, 13.0, 28.0, 100.0]) | st.floats(0, 200, width=32)


def test_any_outline_equals_pycocotools() -> None:
    pixels = 0

    @settings(max_examples=300, deadline=None)
    @given(
        outline=st.lists(points, min_size=1, max_size=3),
        corner=st.tuples(coordinates, coordinates),
        width=sides,
        height=sides,
        size=st.sampled_from([1, 5, 14, 28]),
    )
    def compare(
        outline: list[list[tuple[float, float]]], corner: tuple[float, float], width: float, height: float, size: int
    ) -> None:
        nonlocal pixels
        box = np.array([[*corner, corner[0] + width, corner[1] + height]], dtype=np.float32)
        pixels += check([[np.array(part, dtype=np.float32) for part in outline]], np.array([0]), box, size)

    compare()
    assert pixels > 1000, "hardly any outline had pixels in its box, so hardly anything was compared"


def test_a_rectangle_of_whole_pixels_is_those_pixels() -> None:
    rectangle = np.array([[2, 3], [9, 3], [9, 12], [2, 12]], dtype=np.float32)
    mask = rasterize_polygons(
        edges_of([[rectangle]]),
        torch.zeros(1, 1).long(),
        torch.tensor([[[0.0, 0, 14, 14]]]),
        torch.ones(1, 1).bool(),
        14,
    )
    expected = torch.zeros(14, 14)
    expected[3:12, 2:9] = 1
    assert torch.equal(mask[0, 0], expected)


def test_parts_are_joined_and_not_taken_from_each_other() -> None:
    square = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], dtype=np.float32)
    boxes = torch.tensor([[[0.0, 0, 10, 10]]])
    zero, one = torch.zeros(1, 1).long(), torch.ones(1, 1).bool()
    assert rasterize_polygons(edges_of([[square, square[::-1].copy()]]), zero, boxes, one, 14).eq(1).all()
    # the same edges twice in one part are a hole
    assert rasterize_polygons(edges_of([[np.concatenate([square, square])]]), zero, boxes, one, 14).eq(0).all()


def test_the_order_and_direction_of_edges_do_not_matter() -> None:
    rng = np.random.default_rng(1)
    outlines = [[random_part(rng, "tangle"), random_part(rng, "star")] for _ in range(8)]
    edges = edges_of(outlines)
    matched, boxes = torch.arange(8)[None], torch.tensor([0.0, 0, 90, 110]).expand(1, 8, 4)
    valid = torch.ones(1, 8, dtype=torch.bool)
    expected = rasterize_polygons(edges, matched, boxes, valid, 28)
    turned = edges[..., [2, 3, 0, 1, 4]]
    assert torch.equal(rasterize_polygons(turned, matched, boxes, valid, 28), expected)
    for edge in edges[0]:
        for part in (0, 1):
            own = (edge[:, 4] == part).nonzero()[:, 0]
            edge[own] = edge[own[torch.randperm(len(own))]]
    assert torch.equal(rasterize_polygons(edges, matched, boxes, valid, 28), expected)


@pytest.mark.parametrize("limit", [1, 5_000])
def test_chunking_changes_nothing(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    edges = edges_of([[random_part(rng, "star")] for _ in range(500)])
    matched, boxes = torch.randint(0, 500, (1, 60)), torch.tensor([0.0, 0, 90, 110]).expand(1, 60, 4)
    valid = torch.rand(1, 60) > 0.3
    expected = rasterize_polygons(edges, matched, boxes, valid, 14)
    monkeypatch.setattr(polygons_module, "ELEMENTS_AT_A_TIME", limit)
    assert expected.any()
    assert torch.equal(rasterize_polygons(edges, matched, boxes, valid, 14), expected)


def test_images_have_their_own_objects_and_invalid_places_are_empty() -> None:
    rng = np.random.default_rng(3)
    edges = torch.cat([edges_of([[random_part(rng, "whole")[:3]] for _ in range(4)], spare=1) for _ in range(3)])
    matched, boxes = torch.randint(0, 4, (3, 10)), torch.tensor([-20.0, -20, 120, 120]).expand(3, 10, 4)
    valid = torch.rand(3, 10) > 0.4
    together = rasterize_polygons(edges, matched, boxes, valid, 14)
    assert together[~valid].eq(0).all()
    for image in range(3):
        one = slice(image, image + 1)
        alone = rasterize_polygons(edges[one], matched[one], boxes[one], torch.ones(1, 10, dtype=torch.bool), 14)[0]
        assert torch.equal(together[image][valid[image]], alone[valid[image]])


def test_nothing_to_rasterize() -> None:
    boxes, valid = torch.zeros(2, 3, 4), torch.ones(2, 3, dtype=torch.bool)
    matched = torch.zeros(2, 3).long()
    for capacity in (0, 6):  # edges: no place for any, and none there
        empty = torch.full((2, 4, capacity, 5), -1.0)
        assert rasterize_polygons(empty, matched, boxes, valid, 14).eq(0).all()
    assert rasterize_polygons(torch.zeros(2, 0, 6, 5), matched, boxes, ~valid, 14).shape == (2, 3, 14, 14)
    assert rasterize_polygons(empty, matched[:, :0], boxes[:, :0], valid[:, :0], 14).shape == (2, 0, 14, 14)
    far = edges_of([[np.array([[1e6, 1e6], [2e6, 1e6], [2e6, 2e6]], dtype=np.float32)]])
    box = torch.tensor([[[0.0, 0, 9, 9]]])
    assert rasterize_polygons(far, torch.zeros(1, 1).long(), box, valid[:1, :1], 14).eq(0).all()


def test_opcheck() -> None:
    rng = np.random.default_rng(4)
    edges = edges_of([[random_part(rng, "star")] for _ in range(3)])
    boxes = torch.tensor([0.0, 0, 90, 110]).expand(1, 5, 4).contiguous()
    valid = torch.tensor([[True, True, False, True, True]])
    arguments = (edges, torch.randint(0, 3, (1, 5)), boxes, valid, 14)
    assert set(torch.library.opcheck(rasterize_polygons.overload, arguments).values()) == {"SUCCESS"}
