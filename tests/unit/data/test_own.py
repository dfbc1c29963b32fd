"""Data sets from records and from torch data sets."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors

import rcnn
from rcnn.metrics.coco import evaluate
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco, write_images

BOXES: Any = tv_tensors.BoundingBoxes  # torchvision's types lack what their constructors take
KEYPOINTS: Any = tv_tensors.KeyPoints
SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]


def test_records_give_the_data_set_that_the_annotation_file_gives(tmp_path: Path) -> None:
    entries = [
        annotation(1, segmentation=[[*SQUARE]]),
        annotation(2, image_id=2, category_id=7, segmentation=None, area=None),
        annotation(3, image_id=2, iscrowd=1, segmentation={"size": [40, 60], "counts": [100, 20, 2280]}),
    ]
    opened = rcnn.open_dataset(write_coco(tmp_path, coco_tables(entries, images=3)))
    again = rcnn.Dataset.from_records(list(opened), classes=opened.classes)
    assert (again.classes, again.image_ids, len(again)) == (opened.classes, opened.image_ids, 3)
    for mine, theirs in zip(again, opened, strict=True):
        assert mine.path == theirs.path
        for name in ("boxes", "labels", "ignored", "difficult", "areas"):
            np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name))
        assert str(mine.segmentations) == str(theirs.segmentations)
    copy: rcnn.Dataset = pickle.loads(pickle.dumps(again))  # noqa: S301  our own bytes
    assert copy.to_coco() == again.to_coco()


def test_records_as_dicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", ["1.png", "2.png", "3.png"])
    mask = np.zeros((40, 60), dtype=bool)
    mask[5:10, 20:40] = True
    dataset = rcnn.Dataset.from_records(
        [
            {"file": "photos/1.png", "boxes": [[10, 10, 30, 30]], "labels": ["cup"], "segmentations": [[SQUARE]]},
            {"file": Path("photos/2.png"), "labels": ["kite"], "segmentations": [mask], "image_id": "second"},
            {"file": "photos/3.png"},
        ]
    )
    assert dataset.classes == ("cup", "kite")
    assert dataset.image_ids == (0, "second", 2)
    assert dataset.sizes.tolist() == [[40, 60]] * 3
    assert [record.boxes.tolist() for record in dataset] == [[[10, 10, 30, 30]], [[20, 5, 40, 10]], []]
    assert dataset[1].areas.tolist() == [100]
    assert dataset[2].path == tmp_path / "photos" / "3.png"
    assert str(dataset) == "Dataset('records': 3 images, 2 objects, 2 classes: cup, kite)"
    tensor = torch.tensor([[1.0, 2, 3, 4], [5, 6, 7, 9]])
    numbered = rcnn.Dataset.from_records(
        [{"file": "photos/1.png", "boxes": tensor, "labels": torch.tensor([1, 0]), "crowd": [False, True]}], ["a", "b"]
    )
    assert numbered[0].labels.tolist() == [1, 0]
    assert numbered[0].ignored.tolist() == [False, True]
    entry = {"file": "photos/1.png", "labels": ["a"], "segmentations": [np.array([SQUARE])], "crowd": [torch.tensor(1)]}
    [record] = rcnn.Dataset.from_records([entry])
    assert record.boxes.tolist() == dataset[0].boxes.tolist(), "an array of one polygon"
    assert record.ignored.tolist() == [True]
    points = rcnn.Dataset.from_records(
        [{"file": "photos/1.png", "boxes": [[1, 1, 9, 9]], "labels": ["a"], "keypoints": [[[1, 2, 2], [3, 4, 1]]]}],
        keypoints=["left", "right"],
    )
    assert points.categories[0].get("keypoints") == ["left", "right"]
    assert points[0].keypoints is not None
    assert points[0].keypoints.tolist() == [[[1, 2, 2], [3, 4, 1]]]


def test_faulty_outlines_and_missing_labels_are_refused_by_the_number_of_their_record(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png", "2.png"])  # 40 x 60
    first = {"file": tmp_path / "1.png", "boxes": [[1, 2, 3, 4]], "labels": ["a"]}
    second = {"file": tmp_path / "2.png", "labels": ["a"]}
    mask = np.zeros((20, 60), dtype=bool)
    mask[5:10, 20:40] = True
    wrong: list[tuple[dict[str, Any], str]] = [
        (
            {"segmentations": [mask]},
            r", object 0 has a mask of 20, 60 \(height, width\) for an image of 40, 60; expected",
        ),
        ({"segmentations": [{"size": [20, 60], "counts": [1200]}]}, ", object 0 has a mask of 20, 60"),
        ({"segmentations": [{"size": [40, 60], "counts": [1200]}]}, ", object 0 has RLE that cannot be decoded"),
        ({"segmentations": [{"counts": [1200]}]}, ", object 0 has the segmentation .*; expected RLE: size and counts"),
        (
            {"segmentations": [mask.astype(np.int64)]},
            r", object 0 has .* shape \(20, 60\) and type int64; expected a mask of bool",
        ),
        (
            {"segmentations": [mask.astype(int).tolist()]},
            ", object 0 has a segmentation of zeros and ones; expected polygons",
        ),
        (
            {"segmentations": [[[*SQUARE, float("nan"), 3]]]},
            ", object 0 has a polygon with numbers that are not finite",
        ),
        ({"segmentations": [SQUARE]}, ", object 0 has a segmentation of 8 numbers; expected a list of polygons"),
        ({"segmentations": [np.array(SQUARE)]}, ", object 0 has .* a single polygon needs brackets around it"),
        ({"segmentations": ["x"]}, ", object 0 has the segmentation 'x'; expected polygons"),
        ({"segmentations": [[["x"]]]}, r", object 0 has segmentations \['x'\]; expected polygons"),
        ({"segmentations": SQUARE}, " has 8 segmentations for 1 label; expected one per object: polygons"),
        ({"labels": None, "boxes": [[1, 2, 3, 4]]}, " has 1 boxes and no labels; expected labels, one per object"),
        ({"labels": 5, "boxes": [[1, 2, 3, 4]]}, " has labels 5; expected a list, one per object"),
        ({"boxes": [1, 2, 3, 4]}, r" has 4 boxes for 1 label; expected one per object: \[x1, y1, x2, y2\] in pixels"),
        ({"boxes": 5}, " has boxes 5; expected a list, one per object"),
        ({"boxes": [["x", 2, 3, 4]]}, r", object 0 has boxes \['x', 2, 3, 4\]; expected \[x1, y1, x2, y2\]"),
        ({"boxes": [[1, 2, 10**400, 4]]}, r", object 0 has boxes \[1, 2, 10000.*; expected \[x1, y1, x2, y2\]"),
        ({"boxes": [[1, 2, 3, 4]], "crowd": ["x"]}, ", object 0 has crowd or difficult 'x'; expected 0 or 1"),
        ({}, " has labels, but neither boxes nor segmentations"),
    ]
    for fields, message in wrong:
        with pytest.raises(ValueError, match=f"record 1{message}"):
            rcnn.Dataset.from_records([first, second | fields])
    with pytest.raises(ValueError, match="record 0 has 1 boxes and no labels"):
        rcnn.Dataset.from_records([first | {"labels": []}])
    tensor = torch.zeros(1, 40, 60, dtype=torch.bool)
    tensor[0, 5:10, 20:40] = True
    sound = rcnn.Dataset.from_records([first, second | {"segmentations": tensor}])
    assert sound[1].boxes.tolist() == [[20, 5, 40, 10]]
    assert rcnn.Dataset.from_records([second | {"segmentations": [tensor[0]]}])[0].areas.tolist() == [100]


def test_numbers_of_numpy_and_torch_are_numbers(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    fields = {"image_id": np.int64(5), "height": np.int64(40), "width": torch.tensor(60)}
    objects = {"labels": ["a"], "boxes": [[1, 2, 3, 4]], "annotation_ids": [np.int64(7)], "areas": [np.float32(3.5)]}
    dataset = rcnn.Dataset.from_records([{"file": tmp_path / "1.png"} | fields | objects])
    assert (dataset.image_ids, dataset[0].annotation_ids, dataset[0].areas.tolist()) == ((5,), (7,), [3.5])
    assert dataset.warnings == ()


def test_text_in_the_place_of_a_list_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    records = [{"file": tmp_path / "1.png", "boxes": [[1, 2, 3, 4]], "labels": [0]}]
    pairs = [(torch.zeros(3, 8, 8), {"boxes": [[1, 2, 3, 4]], "labels": [1]})]
    for key, value in (("classes", "cat"), ("keypoints", "nose")):
        arguments: dict[str, Any] = {"classes": ["cat"]} | {key: value}
        message = rf"{key} is '{value}'; expected a list of names, e\.g\. \['{value}'\]"
        with pytest.raises(ValueError, match=message):
            rcnn.Dataset.from_records(records, **arguments)
        with pytest.raises(ValueError, match=message):
            rcnn.Dataset.from_torch(pairs, **arguments)
    with pytest.raises(ValueError, match="metric is 'coca'; expected one of coco, "):
        rcnn.Dataset.from_records(records, ["cat"], metric="coca")  # type: ignore[arg-type]


def test_objects_in_other_forms_of_numpy_and_torch(tmp_path: Path) -> None:
    """The same objects, written in plain lists."""
    write_images(tmp_path, ["1.png"])  # 40 x 60
    plain = {"file": tmp_path / "1.png", "boxes": [[1, 2, 30, 32]], "labels": [1], "crowd": [0]}
    counts = [100, 20, 2280]
    form = plain | {"segmentations": [{"size": [40, 60], "counts": counts}]}
    equal: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"labels": [torch.tensor(1)]}, plain),
        ({"labels": torch.tensor([[1]])}, plain),
        ({"boxes": torch.tensor([[1, 2, 30, 32]], dtype=torch.bfloat16)}, plain),
        ({"boxes": torch.tensor([[1.0, 2, 30, 32]], requires_grad=True)}, plain),
        ({"segmentations": [{"size": np.array([40, 60]), "counts": np.array(counts)}]}, form),
        ({"segmentations": [{"size": (40, 60), "counts": [np.int64(one) for one in counts]}]}, form),
    ]
    for fields, expected in equal:
        mine, theirs = (rcnn.Dataset.from_records([one], ["a", "b"]) for one in (plain | fields, expected))
        assert mine.to_coco() == theirs.to_coco(), fields


def test_a_torch_data_set_of_another_form_is_refused() -> None:
    image, target = torch.zeros(3, 8, 8), {"boxes": [[1, 2, 3, 4]], "labels": [1]}
    wrong: list[tuple[list[Any], str]] = [
        (
            [(image, [{"bbox": [1, 2, 3, 4]}])],
            "image 0 of list is a pair with a list; .*wrap_dataset_for_transforms_v2",
        ),
        ([(image, target), (image, target, 3)], "image 1 of list is a tuple of 3 values; expected a pair"),
        ([{"image": image, "target": target}], "image 0 of list is a dict; expected a pair: the image, and a dict"),
        (
            [(image, target | {"labels": ["cat"]})],
            "image 0, object 0 has the label 'cat'; expected the number of a class",
        ),
        (
            [(image, target | {"labels": [1.7]})],
            r"image 0, object 0 has the label 1\.7; expected the number of a class",
        ),
        ([(image, target | {"image_id": 0.5})], r"image 0 has the image_id 0\.5; expected an integer or text"),
        ([(image, target | {"image_id": 0})] * 3, "image 1 has the image_id 0 of image 0; expected another id"),
        ([], "list is empty; expected at least one image"),
    ]
    for data, message in wrong:
        with pytest.raises(ValueError, match=message):
            rcnn.Dataset.from_torch(data, ["cat", "dog"])
    unnumbered: list[Any] = [(image, target | {"image_id": None})] * 2
    assert rcnn.Dataset.from_torch(unnumbered, ["cat"]).image_ids == (0, 1)


@pytest.mark.parametrize("values", [(0.0, 255.0), (-2.1, 2.6), (0.0, float("nan"))])
def test_float_images_of_a_torch_data_set_are_0_to_1(values: tuple[float, float]) -> None:
    target = {"boxes": torch.tensor([[1.0, 2, 30, 40]]), "labels": torch.tensor([1])}
    sound, wrong = (torch.tensor(ends).repeat(3, 48, 32) for ends in ((-0.1, 1.1), values))
    assert rcnn.Dataset.from_torch([(sound, target)], ["a"])[0].read()[0, 0, :2].tolist() == [0, 255]
    with pytest.raises(ValueError, match=r"image 1 is float32 with values from .*; expected 0 to 1, or uint8"):
        rcnn.Dataset.from_torch([(sound, target), (wrong, target)], ["a"])


def test_faulty_records_are_refused_by_their_number(tmp_path: Path) -> None:
    write_images(tmp_path, ["1.png"])
    sound = {"file": tmp_path / "1.png", "boxes": [[1, 2, 3, 4]], "labels": ["a"]}
    wrong: list[tuple[Any, str]] = [
        ([], "records is empty"),
        ({"file": "1.png"}, "records is of type dict; expected a list of dicts, one per image"),
        ([sound, "1.png"], "record 1 is '1.png'; expected a dict with file, boxes, labels"),
        ([sound | {"labels": "a"}], "record 0 has labels 'a'; expected a list, one label per object"),
        ([sound, {"labels": []}], "record 1 has file None; expected the path of an image"),
        ([sound | {"bboxes": []}], r"record 0: unknown key 'bboxes' \(did you mean 'boxes'\?\)"),
        ([sound | {"labels": ["a", "b"]}], "record 0 has 1 boxes for 2 labels; expected one per object"),
        (
            [sound | {"labels": [3]}],
            r"record 0, object 0 has the label 3, which is not a name; expected .* classes=\[\.\.\.\]",
        ),
        ([sound | {"boxes": [[1, 2, 3]]}], "record 0, object 0 has a box of 3 numbers; expected x1, y1, x2, y2"),
        (
            [sound | {"boxes": [[9, 9, 3, 4]]}],
            r"record 0, object 0 has the box \[9.0, .*expected finite x1, y1, x2, y2 in pixels",
        ),
        (
            [sound | {"file": tmp_path / "absent.png"}],
            r"record 0: the file /.*absent.png does not exist; expected the path",
        ),
        ([{"file": "nope.jpg"}], r"record 0: the file /.*nope.jpg does not exist"),
        (
            [{"file": tmp_path / "1.png"}],
            r"no record has objects: pass the names of the classes, classes=\[\.\.\.\]",
        ),
        ([sound, {"file": "no.png"}, {"file": "x.png"}], r"record 1: the file /.*no.png .*\(2 records in all have no"),
    ]
    for records, message in wrong:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            rcnn.Dataset.from_records(records)
    with pytest.raises(
        ValueError, match="record 0, object 0 has the label 'a'; expected one of the classes b, c, or 0 to 1"
    ):
        rcnn.Dataset.from_records([sound], ["b", "c"])


class Discs:
    """A data set in torchvision's form: grey pictures with a bright rectangle, labels from 1."""

    def __init__(self, images: int) -> None:
        self.images = images

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, i: int, /) -> tuple[Tensor, Mapping[str, Any]]:
        if not 0 <= i < self.images:
            raise IndexError(i)
        mask = torch.zeros(48, 64, dtype=torch.uint8)
        mask[10 + i : 30 + i, 12:40] = 1
        target = {"boxes": torch.tensor([[12.0, 10 + i, 40, 30 + i]]), "labels": torch.tensor([1 + i % 2])}
        return (mask * 0.75).expand(3, -1, -1), target | {"masks": mask[None], "image_id": torch.tensor(i + 7)}


def test_a_torch_data_set_is_a_data_set() -> None:
    dataset = rcnn.Dataset.from_torch(Discs(3), ["square", "disc"])
    assert dataset.notes == ()
    assert dataset.image_ids == (7, 8, 9)
    assert [record.labels.tolist() for record in dataset] == [[0], [1], [0]]
    assert dataset[1].boxes.tolist() == [[12, 11, 40, 31]]
    assert dataset[1].areas.tolist() == [560]
    image = dataset[1].read()
    assert (image.shape, image.dtype, int(image.max()), int(image.min())) == ((3, 48, 64), torch.uint8, 191, 0)
    part = dataset.subset([2, 0])
    assert torch.equal(part[0].read(), dataset[2].read())
    truth = part.to_coco()
    results = [{**one, "score": 0.5} for one in truth["annotations"]]
    assert evaluate(truth, results, ("bbox", "segm")).kinds["segm"]["AP"] == pytest.approx(1)


def test_labels_of_a_torch_data_set_count_from_1_unless_said(tmp_path: Path) -> None:
    classes = ["square", "disc"]
    image = torch.zeros(3, 48, 64)
    box = torch.tensor([[1.0, 2, 30, 40]])
    zero, one = ([(image, {"boxes": box, "labels": torch.tensor([label])})] for label in (0, 1))
    with pytest.raises(ValueError, match=r"image 0 has labels 0 to 0; expected 1 to 2 .*need first_label=0"):
        rcnn.Dataset.from_torch(zero, classes)
    with pytest.raises(ValueError, match=r"image 1 has labels 2 to 2; expected 0 to 1 .*need first_label=1"):
        rcnn.Dataset.from_torch(Discs(2), classes, first_label=0)
    assert rcnn.Dataset.from_torch(zero, classes, first_label=0)[0].labels.tolist() == [0]
    without_last = rcnn.Dataset.from_torch(one, classes)  # in agreement with both conventions
    assert without_last[0].labels.tolist() == [0]
    (note,) = without_last.notes
    assert "no object has the label 2 (disc); if the labels count from 0, pass first_label=0" in note


def test_records_keep_difficult_objects_expressions_and_ids(tmp_path: Path) -> None:
    entries = [
        annotation(11, difficult=1),
        annotation(12, iscrowd=1, segmentation={"size": [40, 60], "counts": [100, 20, 2280]}),
        annotation(13, expressions=["the left cup", "cup"]),
    ]
    opened = rcnn.open_dataset(write_coco(tmp_path, coco_tables(entries)))
    again = rcnn.Dataset.from_records(list(opened), classes=opened.classes, metric="voc2012")
    for dataset in (opened, again):
        (record,) = (one for one in dataset if len(one.labels))
        assert record.annotation_ids == (11, 12, 13)
        assert record.ignored.tolist() == [True, True, False]
        assert record.difficult.tolist() == [True, False, False]
        assert record.expressions == ((), (), ("the left cup", "cup"))
        assert [one["iscrowd"] for one in dataset.to_coco()["annotations"]] == [0, 1, 0]
    assert (opened.metric, again.metric) == ("coco", "voc2012")


def test_a_torch_data_set_is_trained_on_and_evaluated(tmp_path: Path) -> None:
    classes = ["square", "disc"]
    training = rcnn.Dataset.from_torch(Discs(12), classes)
    validation = rcnn.Dataset.from_torch(Discs(2), classes)
    brief = ["train.steps=1", "train.batch_size=2", "train.workers=1", "train.warmup_steps=0"]
    lines: list[str] = []
    options = {"overrides": [*TINY_MODEL, *brief], "validation": validation, "log": lines.append}
    run = rcnn.train("mask_rcnn_compact", training, tmp_path / "run", weights="none", **options)  # type: ignore[arg-type]
    assert run.best is not None
    evaluation = rcnn.evaluate(run.folder, validation, workers=1)
    assert (evaluation.metrics.images, evaluation.failed) == (2, ())
    assert evaluation.metrics.kinds["segm"]["AP"] is not None
    alone = rcnn.train(
        "mask_rcnn_compact", training, tmp_path / "alone", overrides=[*TINY_MODEL, *brief], weights="none",
        log=lines.append,
    )  # fmt: skip
    assert alone.best is None
    assert any("its images are not files, so none are held out" in line for line in lines)


def test_pillow_images_and_files(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path, {"train": 2}, size=(48, 64))
    opened = rcnn.open_dataset(data, "train")
    pairs = [(Image.open(record.path), {"boxes": record.boxes, "labels": record.labels.tolist()}) for record in opened]
    dataset = rcnn.Dataset.from_torch(pairs, opened.classes, first_label=0)
    for mine, theirs in zip(dataset, opened, strict=True):
        assert torch.equal(mine.read(), theirs.read())
        np.testing.assert_allclose(mine.boxes, theirs.boxes, atol=1e-4)


@pytest.mark.parametrize(
    ("form", "box"),
    [("XYXY", [12, 10, 41, 31]), ("XYWH", [12, 10, 29, 21]), ("CXCYWH", [26.5, 20.5, 29, 21])],
)
def test_boxes_of_torchvision_are_read_in_their_own_format(form: str, box: list[float], tmp_path: Path) -> None:
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    boxes = BOXES([box], format=form, canvas_size=(48, 64))
    target = {"boxes": boxes, "labels": torch.tensor([1])}
    [record] = rcnn.Dataset.from_torch([(tv_tensors.Image(image), target)], ["a"])
    assert record.boxes.tolist() == [[12, 10, 41, 31]]
    assert record.areas.tolist() == [29 * 21]
    write_images(tmp_path, ["1.png"])  # 40 x 60
    boxes = BOXES([box], format=form, canvas_size=(40, 60))
    [record] = rcnn.Dataset.from_records([{"file": tmp_path / "1.png", "boxes": boxes, "labels": ["a"]}])
    assert record.boxes.tolist() == [[12, 10, 41, 31]]


def test_boxes_of_torchvision_that_do_not_belong_to_the_image_are_refused() -> None:
    image = torch.zeros(3, 48, 64, dtype=torch.uint8)
    first = {"boxes": torch.tensor([[1.0, 2, 3, 4]]), "labels": torch.tensor([1])}
    whole = {"format": "XYXY", "canvas_size": (96, 128)}
    wrong: list[tuple[Any, str]] = [
        (BOXES([[1.0, 2, 3, 4]], **whole), r"a canvas_size of 96, 128 .* for an image of 48, 64"),
        (
            BOXES([[1.0, 2, 3, 4, 30]], format="XYWHR", canvas_size=(48, 64)),
            "rotated boxes .*XYWHR.*; expected XYXY, XYWH or CXCYWH",
        ),
    ]
    for boxes, message in wrong:
        data = [(image, first), (image, first | {"boxes": boxes})]
        with pytest.raises(ValueError, match=f"image 1 has .*{message}"):
            rcnn.Dataset.from_torch(data, ["a"])


def test_keypoints_without_visibility_are_refused() -> None:
    """Three points of two numbers are not two points of three."""
    points = KEYPOINTS([[[1.0, 2], [3, 4], [5, 6]]], canvas_size=(48, 64))
    target = {"boxes": torch.tensor([[1.0, 2, 30, 40]]), "labels": torch.tensor([1]), "keypoints": points}
    with pytest.raises(ValueError, match=r"image 0, object 0 has keypoints of shape \(3, 2\); expected \(J, 3\): x, y"):
        rcnn.Dataset.from_torch([(torch.zeros(3, 48, 64), target)], ["a"], keypoints=["left", "right"])
