"""labelme's files: shapes of every kind, groups, images beside the files or in them, and what is skipped."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.images import read_image
from rcnn.data.inspect.divide import split_dataset
from rcnn.data.inspect.fix import fix_dataset
from rcnn.data.similarity import fingerprint
from tests.unit.data.coco_folders import write_images
from tests.unit.data.format_folders import labelme_file, labelme_shape, png

SIZE = (40, 60)
TRIANGLE = [[10.0, 5.0], [30.0, 5.0], [30.0, 25.0]]


def write(folder: Path, name: str, shapes: list[Any], *, image: bool = True, **fields: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    if image:
        write_images(folder, [f"{name}.png"])
    (folder / f"{name}.json").write_text(json.dumps(labelme_file(f"{name}.png", SIZE, shapes, **fields)))
    return folder


def test_every_shape_that_is_an_object(tmp_path: Path) -> None:
    mask = np.zeros((11, 21), np.uint8)
    mask[2:, :5] = 1
    shapes = [
        labelme_shape("kite", TRIANGLE, ""),  # some converters write no type
        labelme_shape("cup", [[30.0, 20.0], [10.0, 5.0]], "rectangle"),
        labelme_shape("kite", [[30.0, 20.0], [30.0, 30.0]], "circle"),
        labelme_shape("cup", [[20.0, 10.0], [40.0, 20.0]], "mask", mask=png(mask)),
        labelme_shape("cup", [[5, 5], [9, 5], [9, 8], [5, 8]], "rectangle", difficult=True),  # as X-AnyLabeling writes
    ]
    assert splits(write(tmp_path, "a", shapes)) == ["all"]
    dataset = open_dataset(tmp_path, "all")
    record = dataset[0]
    assert dataset.classes == ("cup", "kite")
    assert record.labels.tolist() == [1, 0, 1, 0, 0]
    assert record.annotation_ids == ("a:1", "a:2", "a:3", "a:4", "a:5")
    assert record.boxes[[0, 1, 3]].tolist() == [[10, 5, 30, 25], [10, 5, 30, 20], [20, 12, 25, 21]]
    np.testing.assert_allclose(record.boxes[2], [20, 10, 40, 30], atol=0.02)
    assert record.areas[[0, 3]].tolist() == [200, 45]
    assert record.areas[2] == pytest.approx(314, abs=1)
    assert record.segmentations[1] is None
    assert record.ignored.tolist() == [False, False, False, False, True]
    assert [one.get("difficult", 0) for one in dataset.to_coco()["annotations"]] == [0, 0, 0, 0, 1]


def test_shapes_of_a_group_are_parts_of_one_object(tmp_path: Path) -> None:
    square = [[40.0, 30.0], [50.0, 30.0], [50.0, 38.0], [40.0, 38.0]]
    block = np.ones((5, 5), np.uint8)
    shapes = [
        labelme_shape("kite", TRIANGLE, group_id=1),
        labelme_shape("cup", square, group_id=1),  # another label: another object
        labelme_shape("kite", square, group_id=1.0),
        labelme_shape("pan", [[0, 0], [4, 4]], "mask", mask=png(block), group_id=2),
        labelme_shape("pan", [[20, 0], [30, 10]], "rectangle", group_id=2),
        labelme_shape("pot", [[1, 1], [3, 3]], "rectangle", group_id=3),
        labelme_shape("pot", [[8, 8], [9, 9]], "rectangle", group_id=3),
    ]
    record = open_dataset(write(tmp_path, "a", shapes), "all")[0]
    assert record.annotation_ids == ("a:1", "a:2", "a:4", "a:6")
    assert [len(part) for part in record.segmentations[0] or ()] == [6, 8]
    assert record.boxes.tolist() == [[10, 5, 50, 38], [40, 30, 50, 38], [0, 0, 30, 10], [1, 1, 9, 9]]
    assert record.areas.tolist() == [280, 80, 125, 64]


def test_what_is_not_an_object_is_skipped_and_counted(tmp_path: Path) -> None:
    shapes = [
        labelme_shape("kite", TRIANGLE),
        labelme_shape("kite", [[1, 1]], "point"),
        labelme_shape("kite", [[1, 1], [2, 2]], "line"),
        labelme_shape("kite", [[1, 1], [2, 2], [3, 1]], "linestrip"),
        labelme_shape("_background_", TRIANGLE),
        labelme_shape("", TRIANGLE),
        labelme_shape("kite", TRIANGLE[:2]),
        labelme_shape("kite", [[1, float("nan")], [2, 2], [3, 3]]),
        labelme_shape("kite", [[1, 1], [2, 2]], "mask", mask="no PNG"),
        labelme_shape("kite", TRIANGLE, "star"),
        "kite",
    ]
    dataset = open_dataset(write(tmp_path, "a", shapes), "all")
    assert [len(record.boxes) for record in dataset] == [1]
    text = "\n".join(dataset.warnings)
    for expected in (
        "1 annotation has the shape_type point, which is not an object (id a:2): skipped",
        "the shape_type linestrip",
        "the label _background_",
        "no label (id a:6)",
        "a polygon of 2 points (id a:7)",
        "points that are not pairs of finite numbers (id a:8)",
        "a mask that is not a PNG in base64, or is larger than its image (id a:9)",
        "the shape_type 'star'; expected polygon",
        "a shape that is not an object with label and points (id a:11)",
    ):
        assert expected in text
    assert len(dataset.warnings) == 10


@pytest.mark.parametrize("place", ["train", "annotations/train", "labels/train", "train/labels", "images/train"])
def test_splits_are_subfolders(tmp_path: Path, place: str) -> None:
    write(tmp_path / place, "a", [labelme_shape("kite", TRIANGLE)])
    assert splits(tmp_path) == ["train"]
    assert open_dataset(tmp_path, "train")[0].path.name == "a.png"
    with pytest.raises(
        FileNotFoundError, match=r"it has train\. Searched for labelme's JSON files in valid/, annotations/"
    ):
        open_dataset(tmp_path, "valid")


def test_images_are_found_where_the_file_says_or_beside_it_or_in_images(tmp_path: Path) -> None:
    shapes = [labelme_shape("kite", TRIANGLE)]
    write_images(tmp_path / "photos", ["a.png"])
    write_images(tmp_path / "images", ["c.png"])
    write_images(tmp_path / "annotations", ["b.png"])
    write(tmp_path / "annotations", "a", shapes, image=False, imagePath="..\\photos\\a.png")
    write(tmp_path / "annotations", "b", shapes, image=False, imagePath="renamed.png")
    write(tmp_path / "annotations", "c", shapes, image=False, imagePath="C:\\Users\\me\\c.png")
    dataset = open_dataset(tmp_path, "all")
    assert [record.path.relative_to(tmp_path).as_posix() for record in dataset] == [
        "photos/a.png", "annotations/b.png", "images/c.png"
    ]  # fmt: skip
    (tmp_path / "photos" / "a.png").unlink()
    [warning] = [line for line in open_dataset(tmp_path, "all").warnings if "has no file" in line]
    assert "annotations: 1 image has no file, e.g. ../photos/a.png is not in " in warning
    (tmp_path / "images" / "c.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"annotations: 2 of its 3 images are not in .*a\.png.* remove their annotation files"
    ):
        open_dataset(tmp_path, "all")


def test_an_embedded_image_is_used_if_there_is_no_file(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3), np.uint8)
    write(tmp_path, "a", [labelme_shape("kite", TRIANGLE)], image=False, imageData=png(pixels))
    record = open_dataset(tmp_path, "all")[0]
    assert record.path == tmp_path / "a.json"
    assert np.array_equal(read_image(record.path).permute(1, 2, 0).numpy(), pixels)
    (tmp_path / "a.png").write_bytes(base64.b64decode(png(pixels)))
    assert fingerprint(tmp_path / "a.json") == fingerprint(tmp_path / "a.png")


def test_embedded_images_are_written_as_image_files(tmp_path: Path) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    for n in range(12):
        pixels = np.random.default_rng(n).integers(0, 255, (*SIZE, 3), np.uint8)
        write(root, str(n), [labelme_shape("kite", TRIANGLE)], image=False, imageData=png(pixels))
    fix_dataset(root, tmp_path / "fixed")
    split_dataset(root, (0.5, 0.5), tmp_path / "divided")
    split_dataset(root, (0.5, 0.5), root)
    for data in (tmp_path / "fixed", tmp_path / "divided", root):
        for split in splits(data):
            for record in open_dataset(data, split):
                original = root / record.path.with_suffix(".json").name
                assert record.path.suffix == ".png"
                assert (
                    base64.b64encode(record.path.read_bytes()).decode() == json.loads(original.read_text())["imageData"]
                )


def test_files_of_version_3_and_of_other_tools_have_no_kinds_and_no_version(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png"])
    content = {"shapes": [{"label": "kite", "points": TRIANGLE, "line_color": None}], "imagePath": "a.png"}
    (tmp_path / "a.json").write_text(json.dumps(content))
    record = open_dataset(tmp_path, "all")[0]
    assert (record.height, record.width) == SIZE
    assert len(record.boxes) == 1


def test_labels_txt_lists_the_classes_in_order(tmp_path: Path) -> None:
    write(tmp_path, "a", [labelme_shape("cup", TRIANGLE), labelme_shape("ant", TRIANGLE)])
    (tmp_path / "labels.txt").write_text("__ignore__\n_background_\nkite\ncup\n")
    dataset = open_dataset(tmp_path, "all")
    assert (dataset.classes, dataset[0].annotation_ids) == (("kite", "cup"), ("a:1",))
    assert [(one.kind, one.ids) for one in dataset.findings] == [("no-class", ("a:2",))]
    assert "the label 'ant', which labels.txt does not list" in dataset.warnings[0]


def test_damaged_and_other_files_are_skipped_and_unlabelled_images_noted(tmp_path: Path) -> None:
    write(tmp_path, "a", [labelme_shape("kite", TRIANGLE)])
    write(tmp_path, "empty", [])
    write_images(tmp_path, ["b.png", "new.png"])
    (tmp_path / "b.json").write_text('{"shapes": [')
    (tmp_path / "settings.json").write_text("{}")
    dataset = open_dataset(tmp_path, "all")
    assert dataset.image_ids == ("a", "empty")
    (tmp_path / "b.json").write_text("")
    assert "no content (0 bytes) (b.json)" in open_dataset(tmp_path, "all").warnings[0]
    text = "\n".join(dataset.warnings)
    assert "1 file has content that is not JSON (b.json): skipped with its image" in text
    (tmp_path / "b.json").write_text('{"shapes": [], "imagePath": "caf\u00e9.png"}', encoding="cp1252")
    expected = "1 file has text in another encoding than UTF-8; save it as UTF-8 (b.json): skipped with its image"
    assert expected in open_dataset(tmp_path, "all").warnings[0]
    assert "1 file has no list of shapes, so it is not a labelme file (settings.json): skipped" in text
    assert "2 images without a JSON file are not used" in dataset.notes[0]
    for name in ("a.json", "empty.json"):
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=rf"lists no images that can be used: (.|\n)*{re.escape(expected)}"):
        open_dataset(tmp_path)


def test_files_and_images_of_a_split_in_two_folders(tmp_path: Path) -> None:
    """As imagePath names the photo without a folder."""
    write(tmp_path / "train" / "annotations", "a", [labelme_shape("kite", TRIANGLE)], image=False)
    write_images(tmp_path / "train" / "images", ["a.png"])
    assert open_dataset(tmp_path, "train")[0].path == tmp_path / "train" / "images" / "a.png"


def test_image_path_comes_before_other_images_of_that_name(tmp_path: Path) -> None:
    fields = {"imagePath": "../images/a.png", "imageData": png(np.zeros(SIZE, np.uint8))}
    file = write(tmp_path / "annotations", "a", [labelme_shape("kite", TRIANGLE)], image=False) / "a.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    assert open_dataset(tmp_path / "annotations")[0].path == file  # embedded
    write_images(tmp_path / "annotations", ["a.jpg"])  # e.g. a thumbnail
    assert open_dataset(tmp_path / "annotations")[0].path == tmp_path / "annotations" / "a.jpg"
    write_images(tmp_path / "images", ["a.png"])
    assert open_dataset(tmp_path / "annotations")[0].path.resolve() == (tmp_path / "images" / "a.png").resolve()


def test_an_image_path_that_no_file_can_have_is_not_used(tmp_path: Path) -> None:
    shapes = [labelme_shape("kite", TRIANGLE)]
    write(tmp_path, "a", shapes)
    file = write(tmp_path, "b", shapes, image=False) / "b.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"imagePath": "b\0.png", "imageData": None}))
    write(tmp_path, "c", shapes)
    dataset = open_dataset(tmp_path)
    assert dataset.image_ids == ("a", "c")
    assert "no imagePath in b.json" in dataset.warnings[0]


def test_labels_that_differ_only_in_control_characters_are_one_class(tmp_path: Path) -> None:
    labels = [("red\tcar", 1), ("red car", 1), ("b", 2)]
    shapes = [labelme_shape(label, TRIANGLE, group_id=group) for label, group in labels]
    dataset = open_dataset(write(tmp_path, "a", shapes), "all")
    assert (dataset.classes, dataset[0].annotation_ids) == (("b", "red car"), ("a:1", "a:3"))
    [warning] = dataset.warnings
    assert "1 annotation has a class name with control characters (line breaks, tabs, ...)" in warning
    assert warning.endswith("(id a:1): these were replaced")
    (tmp_path / "labels.txt").write_text("red\tcar\nb\n")
    listed = open_dataset(tmp_path, "all")
    assert listed.classes == ("red car", "b")
    assert "1 line has a class name with control characters" in listed.warnings[0]
