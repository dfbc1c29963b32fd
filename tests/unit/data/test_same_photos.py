"""The same 24 photos in COCO's, labelme's, YOLO's, VOC's and mask folders' layouts: the same objects, and the same AP.

YOLO holds one polygon per line, so every part of an object of several parts is an object of its own. VOC has whole
pixels, and an object in front hides what is behind it.
"""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.data import Dataset, open_dataset
from rcnn.metrics.coco import evaluate
from rcnn.ops.coco_backend import as_rle, rle_mask
from tests.unit.data.format_folders import (
    link,
    mask_of,
    name_of,
    objects_of,
    write_labelme,
    write_masks,
    write_voc,
    write_yolo,
)

PHOTOS = 24


@pytest.fixture(scope="module")
def photos(shared: Path) -> Path:
    return shared / "data" / "coco449" / "val2017"


@pytest.fixture(scope="module")
def coco(shared: Path) -> dict[str, Any]:
    """The tables of the photos, without boxes and areas where outlines say both."""
    tables = json.loads((shared / "data" / "coco449" / "annotations" / "instances_val2017.json").read_text())
    images = tables["images"][:PHOTOS]
    ids = {image["id"] for image in images}
    annotations = [entry for entry in tables["annotations"] if entry["image_id"] in ids]
    used = {entry["category_id"] for entry in annotations}
    categories = sorted((one for one in tables["categories"] if one["id"] in used), key=lambda one: one["name"])
    assert sum(len(entry["segmentation"]) > 1 for entry in annotations if not entry["iscrowd"]) > 5
    assert any(entry["iscrowd"] for entry in annotations)
    return {"images": images, "annotations": annotations, "categories": categories}


def plain(coco: dict[str, Any], *, crowds: bool = False) -> dict[str, Any]:
    """The same objects, with or without crowds."""
    kept = [entry for entry in coco["annotations"] if crowds or not entry["iscrowd"]]
    return coco | {"annotations": copy.deepcopy(kept)}


def opened_as_coco(coco: dict[str, Any], photos: Path, root: Path, *, boxes: bool = True) -> Dataset:
    tables = copy.deepcopy(coco)
    for entry in tables["annotations"] if not boxes else []:
        del entry["bbox"], entry["area"]
    for image in tables["images"]:
        link(photos / image["file_name"], root / "all" / image["file_name"])
    (root / "annotations").mkdir()
    (root / "annotations" / "instances_all.json").write_text(json.dumps(tables))
    return open_dataset(root, "all")


def named(dataset: Dataset) -> list[tuple[str, list[tuple[str, list[float], float, Any, bool]]]]:
    """The objects of each image by file name, with the names of their classes."""
    found = []
    for record in sorted(dataset, key=lambda record: record.path.stem):
        rows = zip(
            record.labels.tolist(), record.boxes, record.areas, record.segmentations, record.ignored, strict=True
        )
        objects = [
            (dataset.classes[label], box.tolist(), float(area), simple(outline), bool(crowd))
            for label, box, area, outline, crowd in rows
        ]
        found.append((record.path.stem, objects))
    return found


def simple(segmentation: Any) -> Any:
    return segmentation if isinstance(segmentation, dict) else [part.tolist() for part in segmentation or ()]


def metrics_of(dataset: Dataset, kinds: list[str]) -> dict[str, Any]:
    """AP of detections that are moved copies of the ground truth; one in five is missing, another has a wrong class."""
    truth = dataset.to_coco()
    stems = {image["id"]: Path(image["file_name"]).stem for image in truth["images"]}
    ids = [category["id"] for category in sorted(truth["categories"], key=lambda one: one["name"])]
    results: list[dict[str, Any]] = []
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    for stem in sorted(stems.values()):
        image_id = next(one for one in stems if stems[one] == stem)
        generator = np.random.default_rng(int(stem))
        for entry in (one for one in truth["annotations"] if one["image_id"] == image_id and not one["iscrowd"]):
            move, draw, score = generator.uniform(-0.1, 0.1, 2), generator.uniform(), generator.uniform()
            if draw < 0.2:
                continue
            x, y, width, height = entry["bbox"]
            label = ids[(ids.index(entry["category_id"]) + (draw > 0.9)) % len(ids)]
            mask = rle_mask(as_rle(entry["segmentation"], *sizes[image_id]))
            shifted = np.roll(mask, (round(move[1] * height), round(move[0] * width)), (0, 1))
            runs = as_rle({"size": list(mask.shape), "counts": run_lengths(shifted)}, *sizes[image_id])
            box = [round(x + move[0] * width, 3), round(y + move[1] * height, 3), width, height]
            results.append(
                {
                    "image_id": image_id,
                    "category_id": label,
                    "score": score,
                    "bbox": box,
                    "segmentation": {"size": runs["size"], "counts": runs["counts"].decode()},
                }
            )
    return evaluate(truth, results, kinds).to_dict()


def run_lengths(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff([0, *changes.tolist(), mask.size]).tolist()


def test_labelme_has_equal_tables_and_equal_ap(coco: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    tables = plain(coco, crowds=True)
    reference = opened_as_coco(tables, photos, tmp_path / "coco", boxes=False)
    write_labelme(tables, photos, tmp_path / "labelme")
    ours = open_dataset(tmp_path / "labelme", "all")
    assert named(ours) == named(reference)
    assert sum(len(objects) for _, objects in named(ours)) > 150
    expected = metrics_of(reference, ["bbox", "segm"])
    found = metrics_of(ours, ["bbox", "segm"])
    assert 0.2 < expected["segm"]["AP"] < 0.9
    for kind in ("bbox", "segm"):  # classes are summed in another order
        assert found[kind] == pytest.approx(expected[kind], abs=1e-12)


def test_mask_folders_have_equal_masks(coco: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    tables = plain(coco)
    write_masks(tables, photos, tmp_path)
    ours = open_dataset(tmp_path, "all")
    assert ours.classes == tuple(entry["name"] for entry in tables["categories"])
    count = 0
    for record in ours:
        image = next(one for one in tables["images"] if one["file_name"] == record.path.name)
        expected = {(name_of(tables, one), int(mask_of(one, image).sum())) for one in objects_of(tables, image)}
        expected -= {pair for pair in expected if not pair[1]}
        found = {(ours.classes[label], int(area)) for label, area in zip(record.labels, record.areas, strict=True)}
        assert found == expected
        count += len(found)
    assert count > 150


def test_yolo_polygons_are_within_a_hundredth_of_a_pixel(coco: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    tables = plain(coco)
    write_yolo(tables, photos, tmp_path, "val", polygons=True)
    ours = open_dataset(tmp_path, "val")
    furthest, parts, several = 0.0, 0, 0
    for record in ours:
        image = next(one for one in tables["images"] if one["file_name"] == record.path.name)
        objects = objects_of(tables, image)
        expected = [(name_of(tables, one), part) for one in objects for part in one["segmentation"]]
        several += sum(len(one["segmentation"]) > 1 for one in objects)
        assert [ours.classes[label] for label in record.labels] == [name for name, _ in expected]
        for (_, part), found in zip(expected, record.segmentations, strict=True):
            assert isinstance(found, tuple)
            assert len(found) == 1
            furthest = max(furthest, float(np.abs(found[0] - part).max()))
            parts += 1
    print(f"{parts} parts, {several} objects of several parts, points off by up to {furthest:.5f} pixels")
    assert furthest < 0.01
    assert several > 5


def test_yolo_boxes_are_within_a_hundredth_of_a_pixel(coco: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    tables = plain(coco)
    write_yolo(tables, photos, tmp_path / "yolo", "val", polygons=False)
    ours = {entry["id"]: entry for entry in open_dataset(tmp_path / "yolo", "val").to_coco()["annotations"]}
    found = [ours[key]["bbox"] for key in ours]
    by_image = sorted(tables["images"], key=lambda image: image["file_name"])
    expected = [one["bbox"] for image in by_image for one in objects_of(tables, image)]
    assert len(found) == len(expected)
    assert float(np.abs(np.array(found) - np.array(expected)).max()) < 0.01


def test_voc_boxes_are_within_a_pixel_and_masks_agree_where_they_are_visible(
    coco: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    tables = plain(coco)
    write_voc(tables, photos, tmp_path / "VOC2012", "val")
    boxes = open_dataset(tmp_path, "val")
    assert boxes.metric == "voc2012"
    masks = open_dataset(tmp_path, "val_segmentation")
    worst, lowest, count = 0.0, math.inf, 0
    for record, instances in zip(boxes, masks, strict=True):
        image = next(one for one in tables["images"] if Path(one["file_name"]).stem == record.image_id)
        objects = objects_of(tables, image)
        assert [boxes.classes[label] for label in record.labels] == [name_of(tables, one) for one in objects]
        for one, (x1, y1, x2, y2) in zip(objects, record.boxes.tolist(), strict=True):
            x, y, width, height = one["bbox"]
            corners = (x, y, x + width, y + height)
            worst = max(worst, *(abs(a - b) for a, b in zip((x1, y1, x2, y2), corners, strict=True)))
        visible = np.zeros((image["height"], image["width"]), dtype=np.int64)
        for number, one in enumerate(objects, start=1):
            visible[mask_of(one, image)] = number
        for identifier, found in zip(instances.annotation_ids, instances.segmentations, strict=True):
            assert isinstance(found, dict)
            own, mask = visible == int(str(identifier).split(":")[1]), rle_mask(found)
            lowest = min(lowest, (own & mask).sum() / (own | mask).sum())
            count += 1
    print(f"{count} visible objects: boxes off by up to {worst:.2f} pixels, mask IoU of at least {lowest:.3f}")
    assert worst <= 1
    assert lowest >= 0.9
    assert count > 150
