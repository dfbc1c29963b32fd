"""The synthetic data set: its outlines against pycocotools and shapes of known area, its files against each other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco

from rcnn.data import open_dataset
from rcnn.demo.outlines import polygons, signed_area, simplify, trace
from rcnn.demo.shapes import OBJECTS, Pose, cover
from rcnn.demo.synthetic import CLASSES, Layer, Scene, annotate, draw_scene, make_shapes, photograph, run_lengths


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def filled(outlines: list[list[float]], height: int, width: int) -> np.ndarray:
    return pycoco.decode(pycoco.merge(pycoco.frPyObjects(outlines, height, width))).astype(bool)


def disc(height: int, width: int, x: float, y: float, radius: float) -> np.ndarray:
    """Coverage, to a sixteenth of a pixel, by counting subpixels."""
    fine = (np.arange(4) + 0.5) / 4
    rows = (np.arange(height)[:, None] + fine).ravel()
    columns = (np.arange(width)[:, None] + fine).ravel()
    inside = np.hypot(columns[None] - x, rows[:, None] - y) < radius
    return inside.reshape(height, 4, width, 4).mean((1, 3)).astype(np.float32)


def test_traced_disc_has_the_area_of_the_disc() -> None:
    (ring,) = trace(disc(60, 70, 33.3, 28.7, 20.0))
    assert signed_area(ring) == pytest.approx(np.pi * 400, rel=0.005)
    np.testing.assert_allclose(np.hypot(*(ring - [33.3, 28.7]).T), 20.0, atol=0.2)


def test_traced_rectangle_follows_pixel_borders() -> None:
    coverage = np.zeros((8, 9), dtype=np.float32)
    coverage[2:6, 3:8] = 1
    (ring,) = trace(coverage)
    np.testing.assert_allclose([*ring.min(0), *ring.max(0)], [3, 2, 8, 6])
    assert signed_area(ring) == pytest.approx(4 * 5 - 4 * 0.125)  # less the four corners, which are cut


def test_traced_hole_turns_the_other_way() -> None:
    rings = trace(disc(60, 60, 30, 30, 22) - disc(60, 60, 30, 30, 9))
    assert sorted(np.sign(signed_area(ring)) for ring in rings) == [-1, 1]
    assert sum(signed_area(ring) for ring in rings) == pytest.approx(np.pi * (22**2 - 9**2), rel=0.01)


def test_full_and_empty_coverage() -> None:
    assert trace(np.zeros((5, 5))) == []
    (ring,) = trace(np.ones((5, 6)))
    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([0, 0], [6, 5])
    assert trace(np.zeros((0, 0))) == []


def test_simplify_keeps_within_the_tolerance() -> None:
    (ring,) = trace(disc(60, 70, 33.3, 28.7, 20.0))
    fewer = simplify(ring, 0.25)
    assert len(fewer) < len(ring) / 3
    following = np.roll(fewer, -1, 0)
    chord = following - fewer
    along = np.clip(((ring[:, None] - fewer) * chord).sum(-1) / (chord**2).sum(-1), 0, 1)
    distance = np.linalg.norm(ring[:, None] - (fewer + along[..., None] * chord), axis=-1).min(1)
    assert distance.max() <= 0.25


@pytest.mark.parametrize("name", CLASSES)
def test_polygons_filled_by_pycocotools_are_the_mask(name: str) -> None:
    for number in range(8):
        rng = np.random.default_rng(number)
        pose = Pose(np.array([75.3, 64.8]), rng.uniform(30, 55) * np.eye(2))
        top, left, coverage = cover(OBJECTS[name](rng), pose, 130, 150)
        whole = np.zeros((130, 150), dtype=np.float32)
        whole[top : top + coverage.shape[0], left : left + coverage.shape[1]] = coverage
        whole[62:68] = 0  # something lies across it
        outlines = polygons(whole)
        assert len(outlines) >= 2 or name in ("crescent", "bottle")
        assert iou(filled(outlines, 130, 150), whole >= 0.5) > 0.95


def test_holes_of_holes_are_joined_to_their_own_outline() -> None:
    target = disc(120, 120, 60, 60, 55) - disc(120, 120, 60, 60, 42) + disc(120, 120, 60, 60, 30)
    target -= disc(120, 120, 60, 60, 15)
    outlines = polygons(target)
    assert len(outlines) == 2
    assert iou(filled(outlines, 120, 120), target >= 0.5) > 0.98


def test_run_lengths_are_coco_s() -> None:
    rng = np.random.default_rng(0)
    for mask in (rng.random((13, 7)) > 0.4, np.zeros((4, 3), bool), np.ones((4, 3), bool)):
        rle = pycoco.frPyObjects({"size": list(mask.shape), "counts": run_lengths(mask)}, *mask.shape)
        np.testing.assert_array_equal(pycoco.decode(rle).astype(bool), mask)


def test_objects_in_front_hide_objects_behind() -> None:
    whole = np.ones((10, 10), dtype=np.float32)
    below = Layer(name="star", top=5, left=5, whole=whole, visible=whole)
    above = Layer(name="star", top=0, left=0, whole=np.ones((8, 9), dtype=np.float32), visible=whole)
    assert below.hide(above).sum() == 100 - 3 * 4
    far = Layer(name="star", top=40, left=0, whole=whole, visible=whole)
    assert below.hide(far).sum() == 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images and three validation images."""
    return make_shapes(tmp_path_factory.mktemp("shapes"), {"train": 12, "val": 3}, size=(150, 200), seed=3)


def test_annotations_are_of_what_can_be_seen(folder: Path) -> None:
    document = json.loads((folder / "annotations" / "instances_train.json").read_text())
    scenes = {}
    for image in document["images"]:
        with Image.open(folder / "train" / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])
            assert file.format == "JPEG"
        scenes[image["id"]] = image
    assert {entry["category_id"] for entry in document["annotations"]} <= set(range(1, len(CLASSES) + 1))
    assert len(document["annotations"]) > 30
    for entry in document["annotations"]:
        height, width = scenes[entry["image_id"]]["height"], scenes[entry["image_id"]]["width"]
        if entry["iscrowd"]:
            continue
        mask = filled(entry["segmentation"], height, width)
        assert mask.sum() == pytest.approx(entry["area"], rel=0.06, abs=10)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y, w, h = entry["bbox"]
        found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose([x, y, x + w, y + h], found, atol=1.5)
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height


def test_objects_of_a_scene_do_not_share_pixels() -> None:
    for number in range(4):
        scene = draw_scene(np.random.default_rng(number), (150, 200))
        taken = np.zeros(scene.size)
        for layer in scene.layers:
            h, w = layer.visible.shape
            taken[layer.top : layer.top + h, layer.left : layer.left + w] += layer.visible
        assert taken.max() <= 1 + 1e-5


def test_crowds_are_one_uncompressed_rle() -> None:
    for number in range(200):
        scene = draw_scene(np.random.default_rng([9, number]), (150, 200))
        crowds = [entry for entry in annotate(scene) if entry["iscrowd"]]
        if crowds:
            break
    (crowd,) = crowds
    assert isinstance(crowd["segmentation"]["counts"], list)
    mask = pycoco.decode(pycoco.frPyObjects(crowd["segmentation"], *scene.size)).astype(bool)
    seen = np.zeros(scene.size, dtype=bool)
    for layer in scene.layers:
        if layer.crowd:
            h, w = layer.visible.shape
            seen[layer.top : layer.top + h, layer.left : layer.left + w] |= layer.visible >= 0.5
    np.testing.assert_array_equal(mask, seen)
    assert mask.sum() == crowd["area"]


def test_the_data_set_opens(folder: Path) -> None:
    dataset = open_dataset(folder, "train")
    assert tuple(dataset.classes) == CLASSES
    assert (len(dataset), len(open_dataset(folder, "val"))) == (12, 3)
    assert not dataset.warnings


def test_same_seed_same_files_and_splits_differ(folder: Path, tmp_path: Path) -> None:
    again = make_shapes(tmp_path, {"val": 3}, size=(150, 200), seed=3)
    for path in sorted((again / "val").iterdir()):
        assert path.read_bytes() == (folder / "val" / path.name).read_bytes()
    first, second = (json.loads((d / "annotations/instances_val.json").read_text()) for d in (folder, again))
    assert first == second
    assert (folder / "val/000001.jpg").read_bytes() != (folder / "train/000001.jpg").read_bytes()


def test_a_photograph_is_an_rgb_image_of_the_scene() -> None:
    rng = np.random.default_rng(1)
    scene: Scene = draw_scene(rng, (90, 120))
    image = photograph(rng, scene)
    assert (image.mode, image.size) == ("RGB", (120, 90))
    assert np.asarray(image).std() > 10
