"""COCO files: which are refused, which values are computed, and which are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks

from rcnn.data import Dataset, open_dataset
from rcnn.data.checks.outlines import polygon_area
from rcnn.metrics.coco import evaluate
from rcnn.ops.run_lengths import run_totals
from tests.unit.data.coco_folders import SQUARE, annotation, coco_tables, write_annotations, write_coco, write_images

FILE = "instances_val.json"


def opened(root: Path, annotations: list[dict[str, Any]], classes: list[str] | None = None) -> Dataset:
    return open_dataset(write_coco(root, coco_tables(annotations)), "val", classes)


def refused(root: Path, tables: Any) -> str:
    """The error message for a file with `tables`; it names the file in any case."""
    (root / "annotations").mkdir()
    (root / "annotations" / FILE).write_text(tables if isinstance(tables, str) else json.dumps(tables))
    (root / "val").mkdir()
    for name in ("val/1.png", "val/2.png"):
        Image.new("L", (60, 40)).save(root / name)
    with pytest.raises(ValueError, match=FILE) as error:
        open_dataset(root, "val")
    return str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty (0 bytes)"),
        (json.dumps(coco_tables([annotation(1)]))[:-40], "it may be cut short"),
        ("\x89PNG\r\n", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ([{"image_id": 1, "score": 0.5}], "it has no list images, annotations, categories (it contains a list)"),
        ({}, "(it contains nothing)"),
        ({"images": [], "annotations": {}}, "it has no list annotations, categories"),
        (coco_tables([]) | {"categories": None}, "it has no list categories"),
        (coco_tables([], images=0), "lists no images"),
        (coco_tables([], images=0) | {"info": {"metric": "x"}}, f"{FILE} lists no images: export the split again"),
        (coco_tables([]) | {"categories": []}, "lists no categories"),
        (coco_tables([]) | {"images": [{"id": 1}]}, "entry 0 (from 0) of images (id 1) has no file_name"),
        (coco_tables([]) | {"images": [{"file_name": "1.png"}]}, "entry 0 (from 0) of images has no id"),
        (coco_tables([annotation(1), {"id": 2}]), "entry 1 (from 0) of annotations has no image_id, category_id"),
        (
            coco_tables([]) | {"annotations": [annotation(1), None]},
            "entry 1 (from 0) of annotations has no image_id, category_id: None",
        ),
        (coco_tables([]) | {"categories": [{"id": "a", "name": "a"}]}, "has the id 'a'; expected an integer"),
        (coco_tables([]) | {"categories": [{"id": True, "name": "a"}]}, "has the id True; expected an integer"),
        (coco_tables([]) | {"categories": [{"id": -1, "name": "a"}]}, "has the id -1; expected an integer from 0"),
        (coco_tables([]) | {"images": [{"id": None, "file_name": "1.png"}]}, "has the id None; expected an integer"),
        (coco_tables([]) | {"images": [{"id": 1.5, "file_name": "1.png"}] * 9}, "the id 1.5 (9 entries in all); exp"),
        (coco_tables([]) | {"images": coco_tables([])["images"] * 2}, "2 ids of images are used more than once (1, 2)"),
        (
            coco_tables([]) | {"categories": coco_tables([])["categories"] * 2},
            "2 ids of categories are used more than once (7, 3)",
        ),
        (coco_tables([annotation(1, image_id=9)]), "image_id that the file does not list, e.g. 9 of annotation 1"),
        (coco_tables([annotation(1, image_id=[1])]), "e.g. [1] of annotation 1; it lists 1, 2: add the image"),
        (coco_tables([annotation(1, image_id=True)]), "e.g. True of annotation 1; it lists 1, 2"),
        (coco_tables([annotation(1, category_id=1)]), "e.g. 1 of annotation 1; it lists 3, 7: add the category"),
        (coco_tables([annotation(1, category_id=False)]), "e.g. False of annotation 1; it lists 3, 7"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, content: Any, message: str) -> None:
    assert message in refused(tmp_path, content)


def rle(size: list[int] | str, counts: Any) -> dict[str, Any]:
    return {"size": size, "counts": counts}


@pytest.mark.parametrize(
    "segmentation",
    [
        rle([60, 40], [2400]),
        rle([40, 60], [10, 20]),
        rle([40, 60], [2410, -10]),
        rle([40, 60], ["2400"]),
        rle([40, 60], 7),
        rle([40, 60], "01"),
        rle([40, 60], " !"),
        rle([40, 60], "é"),
        rle([40, 60], "o" * 40),
        rle([40, 60], "Po0"),
        rle("40", [2400]),
        {"counts": [2400]},
    ],
)
def test_damaged_masks_are_skipped_and_counted(tmp_path: Path, segmentation: Any) -> None:
    dataset = opened(tmp_path, [annotation(1), annotation(8, image_id=2, segmentation=segmentation)])
    assert dataset[1].segmentations == (None,)
    assert dataset[1].boxes.tolist() == [[10, 10, 30, 30]]
    assert "1 annotation has RLE that is damaged, or not of the size of the image (id 8)" in dataset.warnings[0]


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
        annotation(3, segmentation=[rle([40, 60], runs)]),
    ]
    record = opened(tmp_path, annotations)[0]
    for outline in record.segmentations:
        assert isinstance(outline, dict)
        np.testing.assert_array_equal(masks.decode(outline), mask)
    assert record.boxes[1].tolist() == [7, 5, 30, 15]
    assert record.areas[1] == 230


def test_totals_of_run_lengths_equal_the_images() -> None:
    generator = np.random.default_rng(0)
    strings: list[bytes] = []
    areas: list[int] = []
    for number in range(60):
        height, width = generator.integers(1, 300, size=2)
        mask = generator.random((height, width)) < generator.random()
        mask[:] = mask if number % 4 else number % 8 == 0
        strings.append(masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"])
        areas.append(height * width)
    assert run_totals(strings).tolist() == areas
    assert run_totals([b"", strings[1], strings[1][:-1] + b"P"]).tolist() == [-1, areas[1], -1]


def test_boxes_that_cannot_be_learned_from_stay_in_evaluation(tmp_path: Path) -> None:
    annotations = [
        annotation(1),
        annotation(2, bbox=[10, 10, 0, 20], segmentation=None),
        annotation(4, bbox=[60, 10, 20, 20], segmentation=None),
        annotation(5, bbox=[-30, -30, 20, 20], segmentation=None),
        annotation(6, bbox=[50, -10, 30, 20], segmentation=[[50, -10, 80, -10, 80, 10, 50, 10]]),
        annotation(7, bbox=[10.2, 10, 50.3, 20], segmentation=[[10.2, 10, 60.5, 10, 60.5, 30, 10.2, 30]]),
    ]
    dataset = opened(tmp_path, annotations)
    record = dataset[0]
    assert record.annotation_ids == (1, 6, 7)
    np.testing.assert_array_equal(record.boxes[1:], np.array([[50, 0, 60, 10], [10.2, 10, 60, 30]], dtype=np.float32))
    file = dataset.annotation_file
    assert dataset.warnings == (
        f"{file}: 1 annotation has a box of zero size (id 2): skipped in training, kept in evaluation",
        f"{file}: 2 annotations have a box outside the image (id 4, 5): skipped in training, kept in evaluation",
        f"{file}: 1 annotation has a box partly outside the image (id 6): clipped to the image for training",
    )
    assert [a["id"] for a in dataset.to_coco()["annotations"]] == [1, 2, 4, 5, 6, 7]


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
    thin, empty, bare = dataset.warnings
    assert "2 annotations have RLE without a pixel (id 7, 8): the mask was skipped" in empty
    assert "3 annotations have a polygon of fewer than three points" in thin
    assert "(id 1, 2, 3): that part was skipped" in thin
    assert (
        "7 annotations have a box but no outline (id 2, 3, 4, 5, 6 and 2 more): used for boxes, not for masks" in bare
    )


def test_a_data_set_of_boxes_only_gives_no_warning(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [annotation(n, segmentation=None) for n in (1, 2)])
    assert dataset.warnings == ()
    assert dataset[0].segmentations == (None, None)
    assert not dataset.has_outlines


def test_boxes_and_areas_are_computed_from_outlines(tmp_path: Path) -> None:
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


def test_areas_of_polygons_equal_those_of_coco(shared: Path) -> None:
    written = json.loads((shared / "data/coco449/annotations/instances_val2017.json").read_text())["annotations"]
    single = [a for a in written if isinstance(a["segmentation"], list) and len(a["segmentation"]) == 1]
    assert len(single) > 500
    ours = [polygon_area(a["segmentation"][0]) for a in single]
    np.testing.assert_allclose(ours, [a["area"] for a in single], rtol=1e-6, atol=1e-3)


def test_cocos_own_annotations_are_read_unchanged(shared: Path) -> None:
    root = shared / "data" / "coco449"
    written = json.loads((root / "annotations" / "instances_val2017.json").read_text())
    dataset = open_dataset(root, "val2017")
    assert [line for line in dataset.warnings if "outside the image" not in line] == []
    assert dataset.notes == ()
    truth = dataset.to_coco()
    assert len(truth["annotations"]) == len(written["annotations"]) == 808
    for ours, theirs in zip(truth["annotations"], written["annotations"], strict=True):
        for field in ("id", "image_id", "category_id", "bbox", "area", "iscrowd"):
            assert ours[field] == theirs[field]
        if isinstance(theirs["segmentation"], list):
            assert ours["segmentation"] == theirs["segmentation"]
        else:
            size = theirs["segmentation"]["size"]
            np.testing.assert_array_equal(
                masks.decode(ours["segmentation"]), masks.decode(masks.frPyObjects(theirs["segmentation"], *size))
            )


@pytest.mark.parametrize("orientation", [1, 6])
def test_sizes_that_the_file_lacks_are_read_from_the_image(tmp_path: Path, orientation: int) -> None:
    tables = coco_tables([annotation(1)])
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
    assert dataset.warnings == ()


def test_classes_give_the_labels_their_order(tmp_path: Path) -> None:
    annotations = [annotation(1), annotation(2, category_id=7)]
    dataset = opened(tmp_path, annotations, ["cup", "boat", "kite"])
    assert dataset.classes == ("cup", "boat", "kite")
    assert dataset.category_ids == (7, 9, 3)
    assert dataset[0].labels.tolist() == [2, 0]
    assert [c["id"] for c in dataset.to_coco()["categories"]] == [7, 9, 3]


def test_objects_of_other_classes_are_skipped_with_a_warning(tmp_path: Path) -> None:
    annotations = [annotation(1), annotation(2, category_id=7)]
    dataset = opened(tmp_path, annotations, ["Kite", "cup"])
    assert dataset[0].labels.tolist() == [1]
    [line] = dataset.warnings
    assert (
        "1 object of 1 class that the model lacks ('kite' (did you mean 'Kite'?)) is ignored; the model has Kite, cup."
        in line
    )
    assert open_dataset(tmp_path, "val", ["Kite", "cup"], ignore_other_classes=True).warnings == ()
    with pytest.raises(ValueError, match="refused by strict=True"):
        open_dataset(tmp_path, "val", ["Kite", "cup"], strict=True)
    message = r"has no objects of boat, the classes of the model; it has cup, kite\. Rename its categories"
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path, "val", ["boat"])


def test_a_class_without_objects_need_not_be_known(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [annotation(1)], ["kite"])
    assert dataset.classes == ("kite",)
    assert dataset[0].labels.tolist() == [0]


def test_classes_with_the_same_name_get_their_ids_added(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1)])
    tables["categories"][0]["name"] = "kite"
    dataset = open_dataset(write_coco(tmp_path, tables), "val")
    assert dataset.classes == ("kite (category 3)", "kite (category 7)")
    assert "2 categories have the name of another category (id 3, 7)" in dataset.warnings[0]
    with pytest.raises(ValueError, match="classes has kite more than once"):
        open_dataset(tmp_path, "val", ["kite", "kite"])


def test_ids_may_be_text(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1, image_id="b"), annotation("x", image_id="a")])
    tables["images"][0]["id"], tables["images"][1]["id"] = "a", "b"
    dataset = open_dataset(write_coco(tmp_path, tables), "val")
    assert [(record.image_id, record.annotation_ids) for record in dataset] == [("a", ("x",)), ("b", (1,))]


def test_a_damaged_set_can_be_evaluated(tmp_path: Path) -> None:
    runs = {"size": [40, 60], "counts": [410, 20, 20, 20, 1930]}
    annotations = [
        annotation(1),
        annotation(2, bbox=[10, 10, 0, 20], image_id=2, segmentation=None),
        annotation(3, segmentation=[[1, 1, 5, 5]], image_id=2),
        annotation(4, bbox=[90, 10, 20, 20], iscrowd=1, image_id=2, segmentation=None),
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


def test_a_file_that_changes_between_opening_and_evaluation_is_refused(tmp_path: Path) -> None:
    dataset = opened(tmp_path, [annotation(1)])
    write_coco(tmp_path, coco_tables([annotation(1)], images=3))
    with pytest.raises(ValueError, match="was changed after it was opened"):
        dataset.to_coco()


def test_no_classes_are_refused(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(1)]))
    with pytest.raises(ValueError, match="classes is empty; expected class names, or None"):
        open_dataset(root, classes=[])


def test_a_pruned_file_without_annotations_of_other_images_has_no_note(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(1)]), "superminival2014")
    assert open_dataset(root).notes == ()
    write_annotations(root, coco_tables([annotation(1), annotation(2, image_id=9)]), "superminival2014")
    assert open_dataset(root).notes[0].endswith("1 annotation of images that were removed is not used")


def test_a_json_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "labels.json").symlink_to(tmp_path / "gone.json")
    with pytest.raises(FileNotFoundError, match=r"labels\.json is a file that cannot be read \(No such file or dir"):
        open_dataset(tmp_path)


def test_files_in_other_encodings(tmp_path: Path) -> None:
    """Editors and scripts on Windows write UTF-16 and cp1252."""
    tables = coco_tables([annotation(1)], images=1)
    tables["categories"][0]["name"] = "K\xe4se"
    write_images(tmp_path, ["1.png"])
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        (tmp_path / "labels.json").write_bytes(json.dumps(tables, ensure_ascii=False).encode(encoding))
        assert "K\xe4se" in open_dataset(tmp_path).classes
    (tmp_path / "labels.json").write_bytes(json.dumps(tables, ensure_ascii=False).encode("cp1252"))
    for path in (tmp_path, tmp_path / "labels.json"):
        with pytest.raises(ValueError, match=r"labels\.json is text in another encoding than UTF-8; save it as UTF-8"):
            open_dataset(path)
