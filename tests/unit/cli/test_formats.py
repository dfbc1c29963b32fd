"""`rcnn predict --format`: what is written, read back by our own readers and by pycocotools, gives the same objects."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as pycoco
from pycocotools.coco import COCO
from torch import Tensor
from typing_extensions import override as overrides

from rcnn.cli.formats import FORMATS, chosen_formats, files_of_image, require_masks, require_originals
from rcnn.cli.image_outcomes import ImageOptions
from rcnn.cli.predict_images import predict_images
from rcnn.cli.scores import Filter
from rcnn.cli.sources import Source
from rcnn.data.inspect.check import check_dataset
from rcnn.data.opening import open_dataset
from rcnn.data.records import Dataset
from rcnn.data.segmentations import Segmentation
from rcnn.data.writers.yolo import data_yaml
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.ops.coco_backend import as_rle
from rcnn.predictor import Predictor
from rcnn.preprocess import Frame
from rcnn.results import ImageDetections
from rcnn.runtime.processes import ALONE
from tests.tiny_data import TINY_MODEL

SIZE = (120, 160)


def found() -> ImageDetections:
    """A ring, two parts, a disc at the image's corner, and an object without a pixel."""
    y, x = (np.indices((28, 28)) + 0.5 - 14) / 14
    distance = np.hypot(x, y)
    masks = [(distance < 1) & (distance > 0.5), np.abs(x) > 0.4, distance < 1, np.zeros((28, 28))]
    return ImageDetections(
        height=SIZE[0],
        width=SIZE[1],
        boxes=np.array([[10, 10, 90, 80], [60, 70, 150, 110], [120, 0, 160, 30], [2, 90, 30, 118]], np.float32),
        scores=np.array([0.9, 0.8, 0.7, 0.6], np.float32),
        labels=np.array([1, 0, 1, 0]),
        box_masks=np.stack(masks).astype(np.float32),
        classes=("cat: a", 'the "dog"'),
    )


class FixedPredictor(Predictor):
    """A predictor that finds the same objects in every image."""

    @overrides
    def detect(self, images: Sequence[Tensor], frames: Sequence[Frame], score: float = 0.0) -> list[ImageDetections]:
        return [found() for _ in images]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"])
    return FixedPredictor(build_detector(config), classes=found().classes, device="cpu")


@pytest.fixture
def written(predictor: Predictor, tmp_path: Path) -> Path:
    """The output folder of two images, in all formats."""
    (tmp_path / "photos" / "in").mkdir(parents=True)
    for name in ("a.png", "in/b.png"):
        Image.new("RGB", SIZE[::-1], (9, 120, 80)).save(tmp_path / "photos" / name)
    options = ImageOptions(keep=Filter(score=0.0), pictures=False, formats=FORMATS)
    done = predict_images(predictor, [str(tmp_path / "photos")], tmp_path / "out", Path("run"), options, ALONE)
    assert not done.failed
    return tmp_path / "out"


def mask_of(segmentation: Segmentation) -> np.ndarray:
    assert segmentation is not None
    parts = segmentation if isinstance(segmentation, dict) else [part.tolist() for part in segmentation]
    return pycoco.decode(as_rle(parts, *SIZE)).astype(bool)


def check_objects(dataset: Dataset, *, masks: bool = True) -> None:
    """The objects of the first image, in any order, are those of `found`."""
    record, expected = dataset[0], found()
    assert expected.masks is not None
    assert dataset.classes == tuple(sorted(expected.classes))
    order = [int(np.abs(record.boxes - box).sum(1).argmin()) for box in expected.boxes]
    names = [dataset.classes[record.labels[row]] for row in order]
    if not masks:
        assert names == list(expected.names)
        np.testing.assert_allclose(record.boxes[order], expected.boxes, atol=0.01)
        return
    assert names[:3] == list(expected.names)[:3]
    for row, mask in zip(order[:3], expected.masks, strict=False):
        again = mask_of(record.segmentations[row])
        assert (again & mask).sum() / (again | mask).sum() > 0.95
    np.testing.assert_allclose(record.boxes[order[3]], expected.boxes[3], atol=0.01)  # no pixel: its box


def test_labelme_and_yolo_are_data_sets_with_the_same_objects(written: Path) -> None:
    check_objects(open_dataset(written / "labelme", "all"))
    labelme = open_dataset(written / "labelme")
    assert [record.path.relative_to(written).as_posix() for record in labelme] == ["labelme/a.png", "labelme/in-b.png"]
    yolo = open_dataset(written / "yolo")
    assert [Path(record.path).name for record in yolo] == ["a.png", "b.png"]
    check_objects(yolo)
    check_objects(open_dataset(written / "yolo-boxes"), masks=False)
    assert (written / "yolo" / "images" / "in" / "b.png").is_file()


def test_coco_is_read_by_pycocotools_and_by_us(written: Path) -> None:
    truth = COCO(str(written / "coco.json"))
    results = truth.loadRes(str(written / "coco_results.json"))
    expected = found()
    assert expected.masks is not None
    entries = results.loadAnns(results.getAnnIds(imgIds=[2]))
    assert [entry["category_id"] for entry in entries] == [2, 1, 2, 1]
    for entry, mask, box, score in zip(entries, expected.masks, expected.boxes, expected.scores, strict=True):
        np.testing.assert_array_equal(truth.annToMask(entry), mask)
        assert entry["bbox"] == [box[0], box[1], box[2] - box[0], box[3] - box[1]], "of the network"
        assert entry["score"] == pytest.approx(float(score))
    entries = json.loads((written / "coco.json").read_text())["annotations"]
    boxes = [pycoco.toBbox(pycoco.encode(np.asfortranarray(mask, np.uint8))).tolist() for mask in expected.masks[:3]]
    assert [entry["bbox"] for entry in entries[:4]] == [*boxes, [2, 90, 28, 28]], "around the masks"
    assert [entry["area"] for entry in entries[:4]] == [*expected.masks[:3].sum((1, 2)).tolist(), 28 * 28]
    assert "segmentation" not in entries[3], "no pixel"
    assert {finding.kind for finding in check_dataset(written / "coco.json").findings} == {"missing-outline"}
    dataset = open_dataset(written / "coco.json")
    for record, name in zip(dataset, ("a.png", "in/b.png"), strict=True):  # not the pictures with the detections
        assert record.path == written / "coco_images" / name
        assert record.path.read_bytes() == (written.parent / "photos" / name).read_bytes()
    np.testing.assert_allclose(dataset[1].boxes[3], expected.boxes[3], atol=0.01)


def test_csv_and_masks(written: Path) -> None:
    expected = found()
    assert expected.masks is not None
    with (written / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == list(expected.names) * 2
    assert [float(rows[1][key]) for key in ("x1", "y1", "x2", "y2")] == expected.boxes[1].tolist()
    assert [{key: str(value) for key, value in row.items()} for row in expected.to_rows()] == [
        {key: value for key, value in row.items() if key != "file"} for row in rows[:4]
    ]
    with Image.open(written / "masks" / "in" / "b.png") as picture:
        ids = np.asarray(picture)
    top = np.zeros(SIZE, int)
    for row in range(3, -1, -1):
        top[expected.masks[row]] = row + 1
    np.testing.assert_array_equal(ids, top)


def test_keypoints_follow_the_box_in_yolos_files(tmp_path: Path) -> None:
    points = np.array([[[20, 30, 0.9], [170, 60, 0.8]]], np.float32)  # the second one is outside the image
    bare = replace(found()[:1], box_masks=None)
    [line] = replace(bare, keypoints=points).to_yolo()
    expected = [1, 50 / 160, 45 / 120, 80 / 160, 70 / 120, 20 / 160, 30 / 120, 2, 1, 60 / 120, 2]
    assert [float(word) for word in line.split()] == pytest.approx(expected, abs=1e-6)
    assert replace(bare, keypoints=points).to_yolo(polygons=False) == bare.to_yolo()
    assert replace(found()[:1], keypoints=points).to_yolo() == found()[:1].to_yolo(), "a polygon has no keypoints"
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    Image.new("RGB", SIZE[::-1]).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text(line + "\n")
    (tmp_path / "data.yaml").write_text(data_yaml(bare.classes, keypoints=2))
    dataset = open_dataset(tmp_path)
    assert dataset.warnings == ()
    np.testing.assert_allclose(dataset[0].boxes, bare.boxes, atol=0.01)


def test_many_objects_have_16_bit_ids() -> None:
    many = replace(found()[[0] * 299 + [2]], classes=("cat", "dog"))
    source = Source(name="a.png", picture="a.jpg")
    png = files_of_image(many, source, ["masks"], Path(), copies=False)["masks/a.png"]
    with Image.open(io.BytesIO(png)) as picture:
        assert sorted(np.unique(np.asarray(picture))) == [0, 1, 300]


def test_labels_without_copies_are_read_with_the_images_where_they_are(
    predictor: Predictor, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = [tmp_path / "photos" / name for name in ("a.png", "in/b.png")]
    for photo in photos:
        photo.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (9, 120, 80)).save(photo)
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "real" / "deep")
    options = ImageOptions(keep=Filter(score=0.0), pictures=False, formats=("labelme", "yolo"), copies=False)
    predict_images(predictor, [str(tmp_path / "photos")], tmp_path / "out", Path("run"), options, ALONE)
    written = json.loads((tmp_path / "out" / "labelme" / "in-b.json").read_text())
    assert written["imagePath"] == "../../../photos/in/b.png"
    labelme = open_dataset(tmp_path / "out" / "labelme")
    assert [record.path.resolve() for record in labelme] == photos
    assert all("but no outline" in line for line in labelme.warnings)
    assert not [name for name in labelme.file_names if ".." in name]
    check_objects(labelme)
    images = tmp_path / "out" / "yolo" / "images"
    assert f"ln -s /path/to/photos {images}" in capsys.readouterr().err
    images.symlink_to(tmp_path / "photos")  # as the message says
    yolo = open_dataset(tmp_path / "out" / "yolo")
    assert [record.path.resolve() for record in yolo] == photos
    assert all("but no outline" in line for line in yolo.warnings)
    check_objects(yolo)


def test_files_of_an_earlier_call_are_removed_but_not_those_of_the_user(
    predictor: Predictor, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos, out = written.parent / "photos", written
    for name in ("c.png", "d.png"):
        Image.new("RGB", SIZE[::-1], (9, 120, 80)).save(photos / name)

    def predict(*names: str, formats: Sequence[str] = ("labelme", "yolo", "masks")) -> None:
        options = ImageOptions(keep=Filter(score=0.0), pictures=False, formats=tuple(formats))
        predict_images(predictor, [str(photos / name) for name in names], out, Path("run"), options, ALONE)

    predict("c.png")
    assert f"{out}: removed 10 files of an earlier prediction" in capsys.readouterr().err  # 5 for each of two images
    assert sorted(path.name for path in (out / "labelme").iterdir()) == ["c.json", "c.png"]
    assert len(open_dataset(out / "yolo")) == 1
    assert [path.name for path in (out / "masks").rglob("*.png")] == ["c.png"]
    assert (out / "yolo-boxes" / "labels" / "in" / "b.txt").is_file()  # of a format that was not chosen
    (out / "yolo" / "labels" / "c.txt").write_text("corrected by hand\n")
    (out / "yolo" / "labels" / "own.txt").write_text("of the user\n")
    predict("a.png", "d.png", "missing.png")
    files = sorted(path.relative_to(out / "yolo").as_posix() for path in (out / "yolo").rglob("*.*"))
    assert files == [
        "data.yaml", "images/a.png", "images/c.png", "images/d.png",
        "labels/a.txt", "labels/c.txt", "labels/d.txt", "labels/own.txt",
    ]  # fmt: skip
    (photos / "d.png").write_bytes(b"damaged")
    predict("d.png")  # nothing new: the earlier result stays
    assert (out / "yolo" / "labels" / "a.txt").is_file()


def test_wrong_formats_are_refused() -> None:
    config = model_config("faster_rcnn_compact")
    assert chosen_formats("csv, coco,csv") == ("coco", "csv")
    with pytest.raises(ValueError, match=r"--format yollo: not known \(did you mean 'yolo'\?\); expected coco, csv"):
        chosen_formats("yollo")
    with pytest.raises(ValueError, match="--format masks: the model has no masks"):
        require_masks(chosen_formats("masks"), config)
    with pytest.raises(ValueError, match="--format coco,,csv: a name is empty; expected coco, csv"):
        chosen_formats("coco,,csv")
    with pytest.raises(ValueError, match="these detections have no masks"):
        replace(found(), box_masks=None).to_id_mask()


def test_labels_of_the_user_are_kept(predictor: Predictor, written: Path) -> None:
    label = written / "yolo" / "labels" / "a.txt"
    label.write_text("corrected by hand\n")
    options = ImageOptions(keep=Filter(score=0.0), pictures=False, formats=("yolo",))
    with pytest.raises(FileExistsError, match=r"a\.txt was changed after rcnn wrote it"):
        predict_images(predictor, [str(written.parent / "photos")], written, Path("run"), options, ALONE)
    assert label.read_text() == "corrected by hand\n"


def test_names_that_are_not_utf_8_and_one_name_in_two_folders(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "photos" / "in").mkdir(parents=True)
    for name in ("a.png", "in/a.png", "in-a.png", os.fsdecode(b"lat\xe9.png")):
        Image.new("RGB", SIZE[::-1], (9, 120, 80)).save(tmp_path / "x.png")
        (tmp_path / "x.png").rename(tmp_path / "photos" / name)
    out, formats = tmp_path / "out", ("coco", "csv", "labelme", "yolo")
    options = ImageOptions(keep=Filter(score=0.0), pictures=False, formats=formats)
    done = predict_images(predictor, [str(tmp_path / "photos")], out, Path("run"), options, ALONE)
    assert not done.failed
    assert "lat\\udce9.png" in (out / "predictions.csv").read_text()
    for place in ("coco.json", "labelme", "yolo"):
        dataset = open_dataset(out / place)
        assert len(dataset) == 4, place
        assert not [line for line in dataset.warnings if "another" in line], place


def test_a_folder_named_like_a_format_does_not_get_pictures_into_its_data_set(
    predictor: Predictor, tmp_path: Path
) -> None:
    for name in ("x.png", "labelme/x.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1], (9, 120, 80)).save(tmp_path / "photos" / name)
    options = ImageOptions(keep=Filter(score=0.0), formats=("labelme",))
    done = predict_images(predictor, [str(tmp_path / "photos")], tmp_path / "out", Path("run"), options, ALONE)
    assert [entry["picture"] for entry in done.images] == ["x.jpg", "labelme-2/x.jpg"]
    assert all((tmp_path / "out" / entry["picture"]).is_file() for entry in done.images)
    files = sorted(path.name for path in (tmp_path / "out" / "labelme").iterdir())
    assert files == ["labelme-2-x.json", "labelme-2-x.png", "x.json", "x.png"]
    copy = tmp_path / "out" / "labelme" / "x.png"
    assert copy.read_bytes() == (tmp_path / "photos" / "x.png").read_bytes()


def test_drawn_pictures_are_not_taken_for_the_images() -> None:
    with pytest.raises(ValueError, match="add --no-pictures, or leave --no-copy-images out"):
        require_originals(("coco",), copies=False, pictures=True)
    require_originals(("coco",), copies=True, pictures=True)
    require_originals(("coco",), copies=False, pictures=False)
