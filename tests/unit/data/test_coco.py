"""COCO files that are not quite COCO: what is refused, what is left out and told, what is filled in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from rcnn.data import Dataset, open_dataset
from rcnn.data.segmentations import polygon_area, run_totals
from rcnn.metrics.coco import evaluate
from tests.unit.data.coco_folders import SQUARE, annotation, coco_tables, write_coco

FILE = "instances_val.json"


def opened(root: Path, annotations: list[dict[str, Any]], classes: list[str] | None = None) -> Dataset:
    return open_dataset(write_coco(root, coco_tables(annotations)), "val", classes)


def refused(root: Path, tables: Any) -> str:
    """What is said of a file with `tables`; the file is named in any case."""
    (root / "annotations").mkdir()
    (root / "annotations" / FILE).write_text(tables if isinstance(tables, str) else json.dumps(tables))
    for name in ("val/1.png", "val/2.png"):
        (root / "val").mkdir(exist_ok=True)
        Image.new("L", (60, 40)).save(root / name)
    with pytest.raises(ValueError, match=FILE) as error:
        open_dataset(root, "val")
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is not JSON"),
        (json.dumps(coco_tables([annotation(1)]))[:-40], "it may be cut short"),
        ("\x89PNG\r\n", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([{"image_id": 1, "score": 0.5}], "it has no list images, annotations, categories (it holds a list)"),
        ({}, "(it holds nothing)"),
        ({"images": [], "annotations": {}}, "it has no list annotations, categories"),
        (coco_tables([], images=0), "lists no images"),
        (coco_tables([]) | {"categories": []}, "lists no categories"),
        (coco_tables([]) | {"images": [{"id": 1}]}, "entry 0 (from 0) of images has no file_name"),
        (coco_tables([annotation(1), {"id": 2}]), "entry 1 (from 0) of annotations has no image_id, category_id"),
        (coco_tables([annotation(1.5)]), "of annotations has the id 1.5; wanted a whole number or text"),
        (coco_tables([]) | {"categories": [{"id": "a", "name": "a"}]}, "has the id 'a'; wanted a whole number"),
        (coco_tables([annotation(4), annotation(4)]), "1 ids of annotations are used more than once (4)"),
        (coco_tables([]) | {"images": coco_tables([])["images"] * 2}, "2 ids of images are used more than once (1, 2)"),
        (coco_tables([annotation(1, image_id=9)]), "image_id that the file does not list, as 9 of annotation 1"),
        (coco_tables([annotation(1, image_id="1")]), "as '1' of annotation 1; it lists 1, 2: add the image"),
        (coco_tables([annotation(1, image_id=[1])]), "as [1] of annotation 1; it lists 1, 2: add the image"),
        (coco_tables([annotation(1, category_id=1)]), "as 1 of annotation 1; it lists 3, 7: add the category"),
        (
            coco_tables([annotation(5, bbox=[1, 2, 3])]),
            "annotation 5 (image 1) has bbox [1, 2, 3]; wanted [x, y, width",
        ),
        (coco_tables([annotation(5, bbox=["1", 2, 3, 4])]), "annotation 5 (image 1) has bbox ['1', 2, 3, 4]"),
        (coco_tables([annotation(5, area="big")]), "annotation 5 (image 1) has area big"),
        (coco_tables([annotation(5, bbox=None, segmentation=None)]), "has neither a bbox nor a segmentation"),
        (coco_tables([annotation(5, segmentation=SQUARE[0])]), "has a segmentation that starts '[10, 10, 30"),
        (coco_tables([annotation(5, segmentation=[["a"] * 6])]), "annotation 5 (image 1) has a polygon with something"),
        (
            coco_tables([annotation(5, bbox=None, segmentation=[["a"] * 6])]),
            "annotation 5 (image 1) has a segmentation",
        ),
        (coco_tables([annotation(5, segmentation=[[float("nan")] * 6])]), "a coordinate that is not finite"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path: Path, content: Any, told: str) -> None:
    assert told in refused(tmp_path, content)


def rle(size: list[int], counts: Any) -> dict[str, Any]:
    return {"size": size, "counts": counts}


@pytest.mark.parametrize(
    ("segmentation", "told"),
    [
        (rle([60, 40], [2400]), "size [60, 40]"),
        (rle([40, 60], [10, 20]), "add up to 30"),
        (rle([40, 60], [2410, -10]), "counts"),
        (rle([40, 60], 7), "counts"),
        (rle([40, 60], "01"), "add up to 1 pixels, its image has 2400"),
        (rle([40, 60], " !"), ""),
        (rle([40, 60], "é"), ""),
    ],
)
def test_run_lengths_of_another_image_are_refused(tmp_path: Path, segmentation: Any, told: str) -> None:
    said = refused(tmp_path, coco_tables([annotation(1), annotation(8, image_id=2, segmentation=segmentation)]))
    assert "annotation 8 (image 2)" in said
    assert told in said


def test_both_kinds_of_run_lengths_give_the_same_mask(tmp_path: Path) -> None:
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[5:15, 7:30] = 1
    packed = masks.encode(np.asfortranarray(mask))
    flat = mask.T.reshape(-1)
    runs = np.diff(np.flatnonzero(np.diff(flat, prepend=0)), prepend=0).tolist()
    runs.append(flat.size - sum(runs))
    annotations = [
        annotation(1, segmentation=rle([40, 60], packed["counts"].decode())),
        annotation(2, segmentation=rle([40, 60], runs), bbox=None, area=None),
    ]
    record = opened(tmp_path, annotations)[0]
    for outline in record.segmentations:
        assert isinstance(outline, dict)
        np.testing.assert_array_equal(masks.decode(outline), mask)
    assert record.boxes[1].tolist() == [7, 5, 30, 15]
    assert record.areas[1] == 230


def test_totals_of_run_lengths_equal_the_images() -> None:
    generator = np.random.default_rng(0)
    strings, areas = [], []
    for number in range(60):
        height, width = generator.integers(1, 300, size=2)
        mask = generator.random((height, width)) < generator.random()
        mask[:] = mask if number % 4 else number % 8 == 0
        strings.append(masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])
        areas.append(height * width)
    starts = np.cumsum([0, *map(len, strings)])[:-1]
    totals = run_totals(np.frombuffer(b"".join(strings), dtype=np.uint8), starts)
    assert totals.tolist() == areas


def test_what_cannot_be_learnt_is_left_out_and_told(tmp_path: Path) -> None:
    annotations = [
        annotation(1),
        annotation(2, bbox=[10, 10, 0, 20]),
        annotation(3, bbox=[10, 10, 5, -1]),
        annotation(4, bbox=[60, 10, 20, 20]),
        annotation(5, bbox=[-30, -30, 20, 20]),
        annotation(6, bbox=[50, -10, 30, 20]),
        annotation(7, bbox=[10.2, 10, 50.3, 20]),
        annotation(8, bbox=[float("nan"), 0, 5, 5]),
    ]
    dataset = opened(tmp_path, annotations)
    record = dataset[0]
    assert record.annotation_ids == (1, 6, 7)
    np.testing.assert_array_equal(record.boxes[1:], np.array([[50, 0, 60, 10], [10.2, 10, 60, 30]], dtype=np.float32))
    file = dataset.annotation_file
    assert dataset.warnings == (
        f"{file}: 3 annotations have a box of no size (id 2, 3, 8): left out of training, kept in evaluation",
        f"{file}: 2 annotations have a box outside the image (id 4, 5): left out of training, kept in evaluation",
        f"{file}: 1 annotation has a box partly outside the image (id 6): cut at the image's edge for training",
    )
    assert [a["id"] for a in dataset.to_coco()["annotations"]] == list(range(1, 9))


def test_polygons_of_two_points_and_empty_outlines(tmp_path: Path) -> None:
    annotations = [
        annotation(1, segmentation=[[1, 1, 5, 5], *SQUARE]),
        annotation(2, segmentation=[[1, 1, 5, 5]]),
        annotation(3, segmentation=[[1, 1, 5, 5, 9, 2, 7]]),
        annotation(4, segmentation=[]),
        annotation(5, segmentation=None),
        annotation(6, segmentation=[[]]),
        annotation(7, segmentation=rle([40, 60], "")),
        annotation(8, segmentation=rle([40, 60], [2400])),
    ]
    dataset = opened(tmp_path, annotations)
    first, *others = dataset[0].segmentations
    assert isinstance(first, tuple)
    assert [part.tolist() for part in first] == SQUARE
    assert others == [None] * 7
    assert len(dataset[0].boxes) == 8
    thin, bare = dataset.warnings
    assert "3 annotations have a polygon of fewer than three points" in thin
    assert "(id 1, 2, 3): that part is left out" in thin
    assert "5 annotations have a box but no outline (id 4, 5, 6, 7, 8): they teach boxes, not masks" in bare


def test_a_data_set_of_boxes_alone_is_not_warned_of(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [annotation(n, segmentation=None) for n in (1, 2)])
    assert dataset.warnings == ()
    assert dataset[0].segmentations == (None, None)


def test_boxes_and_areas_are_found_from_outlines(tmp_path: Path) -> None:
    triangle = [[20, 4, 40, 4, 20, 14.5]]
    annotations = [
        annotation(1, bbox=None, area=None, segmentation=SQUARE + triangle),
        annotation(2, area=None, segmentation=None, bbox=[1, 2, 3, 4]),
    ]
    dataset = opened(tmp_path, annotations)
    assert dataset[0].boxes.tolist() == [[10, 4, 40, 30], [1, 2, 4, 6]]
    assert dataset[0].areas.tolist() == [400 + 105, 12]
    truth = dataset.to_coco()["annotations"]
    assert (truth[0]["bbox"], truth[0]["area"]) == ([10, 4, 30, 26], 505)


def test_areas_of_polygons_are_those_of_coco(shared: Path) -> None:
    written = json.loads((shared / "data/coco449/annotations/instances_val2017.json").read_text())["annotations"]
    single = [a for a in written if isinstance(a["segmentation"], list) and len(a["segmentation"]) == 1]
    assert len(single) > 500
    ours = [polygon_area(a["segmentation"][0]) for a in single]
    np.testing.assert_allclose(ours, [a["area"] for a in single], rtol=1e-6, atol=1e-3)


@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_that_the_file_lacks_are_read_from_the_image(tmp_path: Path, orientation: int) -> None:
    tables = coco_tables([])
    for image in tables["images"]:
        del image["height"], image["width"]
    write_coco(tmp_path, tables)
    exif = Image.Exif()
    exif[0x0112] = orientation  # 6: the camera was held upright, rows are columns
    Image.new("L", (60, 40)).save(tmp_path / "val" / "2.png", exif=exif)
    dataset = open_dataset(tmp_path, "val")
    assert (dataset[0].height, dataset[0].width) == (40, 60)
    assert (dataset[1].height, dataset[1].width) == ((60, 40) if orientation == 6 else (40, 60))
    truth = dataset.to_coco()["images"][1]
    assert (truth["height"], truth["width"]) == (dataset[1].height, dataset[1].width)


def test_a_size_that_is_none_is_refused(tmp_path: Path) -> None:
    tables = coco_tables([])
    tables["images"][1] |= {"height": "40", "width": 60}
    assert "image 2 (2.png) has height '40' and width 60" in refused(tmp_path, tables)


def test_classes_give_the_labels_their_order(tmp_path: Path) -> None:
    annotations = [annotation(1), annotation(2, category_id=7)]
    dataset = opened(tmp_path, annotations, ["cup", "boat", "kite"])
    assert dataset.classes == ("cup", "boat", "kite")
    assert dataset.category_ids == (7, 9, 3)
    assert dataset[0].labels.tolist() == [2, 0]
    assert [c["id"] for c in dataset.to_coco()["categories"]] == [7, 9, 3]


def test_a_class_that_is_not_asked_for_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"objects of 1 classes .* 2 asked for: 'kite' \(did you mean 'Kite'\?\)"
    ) as error:
        opened(tmp_path, [annotation(1), annotation(2, category_id=7)], ["Kite", "cup"])
    assert "Rename the categories" in str(error.value)


def test_a_class_without_objects_need_not_be_known(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [annotation(1)], ["kite"])
    assert dataset.classes == ("kite",)
    assert dataset[0].labels.tolist() == [0]


def test_classes_named_alike_are_told_apart(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1)])
    tables["categories"][0]["name"] = "kite"
    dataset = open_dataset(write_coco(tmp_path, tables), "val")
    assert dataset.classes == ("kite (category 3)", "kite (category 7)")
    with pytest.raises(ValueError, match="holds a name twice: kite"):
        open_dataset(tmp_path, "val", ["kite", "kite"])


def test_ids_may_be_text(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1, image_id="b"), annotation(2) | {"id": "x", "image_id": "a"}])
    tables["images"][0]["id"], tables["images"][1]["id"] = "a", "b"
    dataset = open_dataset(write_coco(tmp_path, tables), "val")
    assert [(record.image_id, record.annotation_ids) for record in dataset] == [("a", ("x",)), ("b", (1,))]


def test_keypoints_of_several_skeletons_are_left_out_and_told(tmp_path: Path) -> None:
    points = [annotation(1, keypoints=[1, 2, 2] * 3), annotation(2, keypoints=[1, 2, 2] * 4), annotation(3)]
    dataset = opened(tmp_path / "two", points)
    assert dataset[0].keypoints is None
    assert "2 annotations have keypoints of different or odd counts (9, 12 numbers)" in dataset.warnings[0]
    dataset = opened(tmp_path / "one", [points[0], points[2]])
    assert dataset[0].keypoints is not None
    assert dataset[0].keypoints.tolist() == [[[1, 2, 2]] * 3, [[0, 0, 0]] * 3]


def test_the_truth_of_a_damaged_set_can_be_evaluated(tmp_path: Path) -> None:
    runs = {"size": [40, 60], "counts": [410, 20, 20, 20, 1930]}
    annotations = [
        annotation(1),
        annotation(2, bbox=[10, 10, 0, 20], image_id=2),
        annotation(3, segmentation=[[1, 1, 5, 5]], image_id=2),
        annotation(4, bbox=[90, 10, 20, 20], iscrowd=1, image_id=2),
        annotation(5, segmentation=runs, bbox=None, area=None, category_id=7),
    ]
    dataset = opened(tmp_path, annotations, ["cup", "boat", "kite"])
    found = {"image_id": 1, "category_id": 3, "score": 0.9, "bbox": [10, 10, 20, 20]}
    cup = found | {"category_id": 7, "bbox": [10, 10, 2, 20], "segmentation": runs}
    square = masks.merge(masks.frPyObjects(SQUARE, 40, 60))
    kite = found | {"segmentation": {"size": [40, 60], "counts": square["counts"].decode()}}
    metrics = evaluate(dataset.to_coco(), [kite, cup])
    assert metrics.objects == {"kite": 3, "cup": 1, "boat": 0}
    assert metrics.per_class["cup"]["segm"]["AP"] == pytest.approx(1.0)
    assert metrics.per_class["boat"]["bbox"]["AP"] is None
    assert metrics.per_class["kite"]["bbox"]["AP"] == pytest.approx(34 / 101)  # one of three found: recall .33
