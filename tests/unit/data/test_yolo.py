"""YOLO's files: the layouts of its tools, and every kind of line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.inspect.check import check_dataset
from tests.unit.data.coco_folders import write_images

BOX = "1 0.5 0.5 0.25 0.5"  # of 60x40 pixels: 22.5, 10, 37.5, 30
TRIANGLE = "0 0.1 0.1 0.5 0.1 0.5 0.9"
YAML = "path: ../datasets/kites\ntrain: images/train\nval: images/val\ntest:\nnames:\n  0: kite\n  1: cup\n"


def place(root: Path, image: str, labels: str, text: str = BOX) -> None:
    write_images((root / image).parent, [Path(image).name])
    (root / labels).parent.mkdir(parents=True, exist_ok=True)
    (root / labels).write_text(text + "\n")


def test_boxes_and_polygons_in_pixels(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt", f"{BOX}\n\n{TRIANGLE}")
    (tmp_path / "data.yaml").write_text(YAML)
    assert splits(tmp_path) == ["train"]
    dataset = open_dataset(tmp_path, "train")
    record = dataset[0]
    assert (dataset.classes, dataset.category_ids) == (("kite", "cup"), (0, 1))
    assert record.labels.tolist() == [1, 0]
    np.testing.assert_allclose(record.boxes, [[22.5, 10, 37.5, 30], [6, 4, 30, 36]], atol=1e-4)
    assert record.segmentations[0] is None
    assert record.areas.tolist() == pytest.approx([300, 384])
    assert (record.image_id, record.annotation_ids) == ("images/train/a.png", ("a:1", "a:3"))


@pytest.mark.parametrize(
    ("config", "image", "labels"),
    [
        (YAML, "images/train/a.png", "labels/train/a.txt"),  # Ultralytics
        (  # Roboflow
            "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['kite', 'cup']\n",
            "train/images/a_png.rf.1f.png", "train/labels/a_png.rf.1f.txt",
        ),
        ("train: [images/b, images/c]\nval: images/b\nnames: [kite, cup]", "images/b/a.png", "labels/b/a.txt"),
        ("train: /elsewhere/kites/images\nval: \nnames: [kite, cup]", "images/deep/a.png", "labels/deep/a.txt"),
        ("train: photos\nval: photos\nnames: [kite, cup]", "photos/a.png", "photos/a.txt"),
        ("train: train.txt\nval: train.txt\nnames: [kite, cup]", "images/a.png", "labels/a.txt"),
    ],
)  # fmt: skip
def test_places_in_data_yaml(tmp_path: Path, config: str, image: str, labels: str) -> None:
    place(tmp_path, image, labels)
    (tmp_path / "data.yaml").write_text(config)
    if "train.txt" in config:
        (tmp_path / "train.txt").write_text("./images/a.png\n")
    dataset = open_dataset(tmp_path, "train")
    assert [record.path for record in dataset] == [tmp_path / image]
    assert dataset[0].labels.tolist() == [1]


@pytest.mark.parametrize(
    ("names", "image", "labels", "split"),
    [
        ("classes.txt", "images/a.png", "labels/a.txt", "all"),  # Label Studio
        ("classes.txt", "a.png", "a.txt", "all"),  # LabelImg
        ("classes.txt", "images/val/a.png", "labels/val/a.txt", "val"),
        ("classes.txt", "val/images/a.png", "val/labels/a.txt", "val"),
        ("labels/classes.txt", "images/a.png", "labels/a.txt", "all"),
        ("obj.names", "obj_train_data/a.png", "obj_train_data/a.txt", "train"),  # CVAT
    ],
)
def test_places_without_data_yaml(tmp_path: Path, names: str, image: str, labels: str, split: str) -> None:
    place(tmp_path, image, labels)
    (tmp_path / names).write_text("kite\ncup\n")
    if names == "obj.names":
        (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = b/\n")
        (tmp_path / "train.txt").write_text("data/obj_train_data/a.png\n")
    assert splits(tmp_path) == [split]
    dataset = open_dataset(tmp_path, split)
    assert dataset.classes == ("kite", "cup")
    assert dataset[0].path == tmp_path / image
    assert dataset[0].labels.tolist() == [1]


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    place(root, "images/train/a.png", "labels/train/a.txt")
    (root / "data.yaml").write_text(YAML)
    place(elsewhere, "images/b.png", "labels/b.txt")
    for kind in ("images", "labels"):
        (root / kind / "train" / "more").symlink_to(elsewhere / kind)
    (root / "images" / "train" / "back").symlink_to(root / "images")
    dataset = open_dataset(root, "train")
    assert dataset.file_names == ("images/train/a.png", "images/train/more/b.png")
    assert [len(record.boxes) for record in dataset] == [1, 1]


def test_dropped_folders_of_a_path_are_noted(tmp_path: Path) -> None:
    place(tmp_path, "images/a.png", "labels/a.txt")
    (tmp_path / "data.yaml").write_text("train: /elsewhere/kites/images\nval:\nnames: [kite, cup]\n")
    (note,) = open_dataset(tmp_path, "train").notes
    assert f"train: /elsewhere/kites/images does not exist; {tmp_path / 'images'} is used" in note


def test_a_path_that_names_another_copy_of_the_data_is_noted(tmp_path: Path) -> None:
    for copy in ("old", "new"):
        place(tmp_path / copy, "images/train/a.png", "labels/train/a.txt", BOX if copy == "old" else TRIANGLE)
        (tmp_path / copy / "data.yaml").write_text(
            f"path: {tmp_path / 'old'}\ntrain: images/train\nval:\nnames: [a, b]\n"
        )
    assert open_dataset(tmp_path / "old", "train").notes == ()
    dataset = open_dataset(tmp_path / "new", "train")
    assert dataset[0].labels.tolist() == [1]
    expected = f"train: 'images/train' of {tmp_path / 'old'} is used, which path names, not that of {tmp_path / 'new'}"
    assert [line.endswith(expected) for line in dataset.notes] == [True]
    config = tmp_path / "new" / "data.yaml"
    config.write_text(config.read_text().replace("images/train", str(tmp_path / "old" / "images" / "train")))
    assert open_dataset(tmp_path / "new", "train").notes == ()


def test_files_named_data_of_other_formats_are_not_read(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    write_images(tmp_path / "masks", ["a.png"])
    (tmp_path / "cache.data").write_bytes(b"\x00\xff\xfe")
    assert splits(tmp_path) == ["all"]


def test_two_splits_are_not_one_folder(tmp_path: Path) -> None:
    place(tmp_path, "images/a.png", "labels/a.txt")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnames: [kite, cup]\n")
    message = (
        r"data\.yaml: train \('\.\./train/images'\) and val \('\.\./valid/images'\) do not both exist, and .*images"
    )
    with pytest.raises(ValueError, match=message):
        open_dataset(tmp_path, "train")
    place(tmp_path, "train/images/b.png", "train/labels/b.txt")  # Roboflow's: only the ".." is dropped
    dataset = open_dataset(tmp_path, "train")
    assert (dataset.image_ids, dataset.notes) == (("train/images/b.png",), ())


def test_the_data_file_itself_may_be_given(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(YAML.replace("kite", "wrong"))
    (tmp_path / "mine.yaml").write_text(YAML)
    assert splits(tmp_path / "mine.yaml") == ["train"]
    for path, file in ((tmp_path / "mine.yaml", ""), (tmp_path, "mine.yaml")):
        assert open_dataset(path, "train", annotations=file).classes == ("kite", "cup")


def test_lines_that_cannot_be_used_are_skipped_and_counted(tmp_path: Path) -> None:
    lines = [
        BOX, BOX, "1 0.5 0.5 0.2", "2 0.5 0.5 0.2 0.2", "1 320 240 64 48", "1 0.5 x 0.2 0.2", "0 0.1 0.1 0.5 0.1 0.5",
        "0 0.5 0.5 0.2 0.2 0.91", "1 0.05 0.5 0.11 0.5", "-1 0.5 0.5 0.2 0.2",
    ]  # fmt: skip
    place(tmp_path, "images/train/a.png", "labels/train/a.txt", "\n".join(lines))
    (tmp_path / "data.yaml").write_text(YAML + "nc: 3\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset[0].annotation_ids == ("a:1", "a:7", "a:8", "a:9")
    text = "\n".join(dataset.warnings)
    for expected in (
        "1 annotation has the same line as another annotation of the image (labels/train/a.txt:2): used once",
        "4 numbers; expected class and 4 numbers (box), or class and 3 points or more (labels/train/a.txt:3): skipped",
        "2 annotations have a class that is not one of the 2 names, counted from 0 (labels/train/a.txt:4, "
        "labels/train/a.txt:10): skipped",
        "2 annotations have a coordinate that is not from 0 to 1",
        "a sixth number, e.g. a confidence (labels/train/a.txt:7, labels/train/a.txt:8): that number was not used",
        "1 file has an nc of 3 for 2 names (data.yaml): the names are used",
    ):
        assert expected in text, text


def test_keypoints_are_not_used_and_images_without_labels_are_negatives(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt", BOX + " 0.5 0.5 2 0.6 0.6 1")
    place(tmp_path, "images/train/b.png", "labels/train/b.txt", "")
    write_images(tmp_path / "images" / "train", ["c.png"])
    (tmp_path / "data.yaml").write_text(YAML + "kpt_shape: [2, 3]\n")
    dataset = open_dataset(tmp_path, "train")
    assert [len(record.boxes) for record in dataset] == [1, 0, 0]
    assert "keypoints (kpt_shape) are not used" in dataset.notes[0]
    assert "1 image without a label file (c.png): used as negatives" in dataset.notes[-1]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("train: images/train\nval: images/train\nnames: [kite\n", "data.yaml is not YAML"),
        ("train: images/train\nval: images/train\nnames: 2\n", "names is 2; expected a list of names"),
        ("train: images/trian\nval: \nnames: [kite]\n", "no split exists in"),
        ("train: train.txt\nval: \nnames: [kite]\n", r"train.txt: 1 image that it lists is not in .*absent.png"),
    ],
)
def test_data_files_that_cannot_be_used_are_refused(tmp_path: Path, config: str, message: str) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "train.txt").write_text("images/absent.png\n")
    (tmp_path / "data.yaml").write_text(config)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_dataset(tmp_path, "train")


def test_a_split_without_any_label_file_has_test_images(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    write_images(tmp_path / "images" / "test", ["b.png"])
    (tmp_path / "data.yaml").write_text(YAML.replace("test:", "test: images/test"))
    with pytest.raises(ValueError, match=r"no objects to train or evaluate on(.|\n)*1 image has no label file"):
        open_dataset(tmp_path, "test")
    assert len(open_dataset(tmp_path, "test", allow_empty=True)) == 1
    report = check_dataset(tmp_path)
    found = [one.kind for one in report.findings if one.kind != "empty-category"]
    assert found == ["missing-split", "no-labels"]  # of val, once
    assert report.test_splits == ("test",)


def test_findings_name_the_split_and_the_label_file(tmp_path: Path) -> None:
    for split in ("train", "val"):
        place(tmp_path, f"images/{split}/a.png", f"labels/{split}/a.txt", f"{BOX}\n{BOX[:-4]} 7")
    (tmp_path / "data.yaml").write_text(YAML)
    report = check_dataset(tmp_path, only=["bad-shape"])
    assert [one["split"] for one in report.to_dict()["findings"]] == ["train", "val"]
    for split, line in zip(("train", "val"), report.lines(), strict=False):
        assert f"data.yaml: split {split}: 1 annotation has a coordinate" in line
        assert f"(labels/{split}/a.txt:2): skipped" in line
    both = open_dataset(tmp_path, "train+val")
    assert [line.split(" (labels/")[1] for line in both.warnings] == [
        "train/a.txt:2): skipped",
        "val/a.txt:2): skipped",
    ]


def test_label_files_of_one_name_are_all_named(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        place(tmp_path, f"images/train/{folder}/a.png", f"labels/train/{folder}/a.txt", "0 7 7 7 7")
    (tmp_path / "data.yaml").write_text(YAML)
    text = "\n".join(open_dataset(tmp_path, "train", allow_empty=True).warnings)
    assert "labels/train/x/a.txt:1, labels/train/y/a.txt:1" in text


def test_aliases_in_data_yaml_are_bounded(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    pairs = zip("abcdefgh", "bcdefghi", strict=True)
    layers = "".join(f"{new}: &{new} [{','.join(9 * [f'*{old}'])}]\n" for old, new in pairs)
    (tmp_path / "data.yaml").write_text(f"a: &a [x]\n{layers}names: *i\ntrain: images/train\n")
    with pytest.raises(ValueError, match=r"data.yaml is not YAML .its aliases .* expand to more than"):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize(
    ("path", "what"), [("nope", "train is 'nope', which does not exist"), ("../..", "outside the data set")]
)
def test_a_training_split_that_is_not_there_is_refused(path: str, what: str, tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    place(root, "images/val/a.png", "labels/val/a.txt")
    (root / "data.yaml").write_text(f"train: {path}\nval: images/val\nnames: [kite, cup]")
    assert splits(root) == ["train", "val"]
    with pytest.raises(ValueError, match=what):
        open_dataset(root, "train")


def test_a_missing_validation_split_is_an_error_and_a_missing_test_split_is_noted(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(YAML.replace("test:", "test: images/test").replace("../datasets/kites", "."))
    dataset = open_dataset(tmp_path, "train")
    assert "1 split has the path 'images/val', which does not exist (val): skipped" in "".join(dataset.warnings)
    report = check_dataset(tmp_path)
    assert [one.kind for one in report.errors] == ["missing-split"]
    line = f"{tmp_path / 'data.yaml'}: test names 'images/test', which does not exist: skipped"
    assert report.to_dict()["notes"] == [line]
    assert f"note: {line}" in report.lines()


def test_label_files_of_missing_images_are_reported_and_suffixes_may_be_in_capitals(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.TXT")
    place(tmp_path, "images/train/b.png", "labels/train/b.txt")
    (tmp_path / "images" / "train" / "b.png").unlink()
    (tmp_path / "classes.txt").write_text("kite\ncup\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset[0].labels.tolist() == [1]
    assert [(one.kind, one.ids) for one in dataset.findings] == [("missing-image", ("labels/train/b.txt",))]
    assert "1 label file has no image of that name, or not in a format for images" in dataset.warnings[0]


def test_an_image_without_a_line_that_can_be_used_is_said_to_be_background(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    place(tmp_path, "images/train/b.png", "labels/train/b.txt", "1 120 200 50 80")
    (tmp_path / "classes.txt").write_text("kite\ncup\n")
    found = {one.kind: one for one in open_dataset(tmp_path, "train").findings}
    assert found["all-skipped"].ids == ("images/train/b.png",)
    assert found["all-skipped"].line().endswith("used as background in training")


@pytest.mark.parametrize(("names", "what"), [("[kite, yes]", "name 1 is True"), ("{0: kite, 1: }", "name 1 is None")])
def test_the_wrong_name_is_shown(names: str, what: str, tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text(f"train: images/train\nnames: {names}\n")
    with pytest.raises(ValueError, match=what):
        open_dataset(tmp_path, "train")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "not a YOLO data file: expected names, train and val, got None"),
        (b"names:\n\t- kite\ntrain: images", "data.yaml is not YAML .*\\\\t"),
        (b"train: images\n", "names is None"),
        ("train: images\nnames: [Äpfel]".encode("latin-1"), "not a text file in UTF-8"),
    ],
)
def test_a_damaged_data_yaml_is_named(content: bytes, what: str, tmp_path: Path) -> None:
    place(tmp_path, "images/a.png", "labels/a.txt")
    (tmp_path / "data.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=what):
        open_dataset(tmp_path, "train")


def test_a_missing_class_file_is_asked_for(tmp_path: Path) -> None:
    place(tmp_path, "images/a.png", "labels/a.txt")
    with pytest.raises(FileNotFoundError, match=r"No file has the names of the classes: add classes\.txt"):
        open_dataset(tmp_path)


def test_text_in_other_encodings(tmp_path: Path) -> None:
    place(tmp_path, "images/a.png", "labels/a.txt")
    place(tmp_path, "images/b.png", "labels/b.txt")
    (tmp_path / "classes.txt").write_bytes("kite\ncup\n".encode("utf-8-sig"))
    (tmp_path / "labels/a.txt").write_bytes(BOX.encode("utf-16"))
    (tmp_path / "labels/b.txt").write_bytes(b"\xff\xff\xff")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("kite", "cup")
    assert dataset[0].labels.tolist() == [1]
    [warning] = dataset.warnings
    assert (
        "1 label file has text in another encoding than UTF-8; save it as UTF-8 (labels/b.txt): skipped with its image"
        in warning
    )


def test_a_damaged_data_yaml_is_reported_once(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "data.yaml").write_text("train: images/train\nnames: [kite\n")
    assert [one.kind for one in check_dataset(tmp_path).errors] == ["unreadable-annotations"]


def test_images_that_are_missing_or_cannot_be_read_are_skipped_if_they_are_few(tmp_path: Path) -> None:
    for name in "abcde":
        place(tmp_path, f"images/{name}.png", f"labels/{name}.txt")
    (tmp_path / "images" / "b.png").write_bytes(b"")
    (tmp_path / "images" / "c.png").unlink()
    (tmp_path / "train.txt").write_text("".join(f"images/{name}.png\n" for name in "abcde"))
    (tmp_path / "data.yaml").write_text("train: train.txt\nval: train.txt\nnames: [kite, cup]\n")
    dataset = open_dataset(tmp_path, "train")
    assert dataset.image_ids == ("images/a.png", "images/d.png", "images/e.png")
    assert [(one.kind, one.ids) for one in dataset.findings] == [
        ("missing-image", ("images/c.png",)),
        ("unreadable-image", ("images/b.png",)),
    ]
    assert len(dataset.to_coco()["annotations"]) == 3
    assert {one.kind for one in check_dataset(tmp_path, split="train").errors} == {"missing-image", "unreadable-image"}
    (tmp_path / "images" / "d.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"b\.png is empty \(0 bytes\).* \(1 more cannot be read either\)"):
        open_dataset(tmp_path, "train")


def test_two_images_that_share_a_label_file_are_reported_as_such(tmp_path: Path) -> None:
    place(tmp_path, "images/a.png", "labels/a.txt")
    write_images(tmp_path / "images", ["a.jpg"])
    (tmp_path / "classes.txt").write_text("kite\ncup\n")
    dataset = open_dataset(tmp_path)
    assert [record.annotation_ids for record in dataset] == [("images/a.jpg:1",), ("images/a.png:1",)]
    assert [(one.kind, one.ids) for one in dataset.findings] == [("format", ("images/a.jpg", "images/a.png"))]
    assert "2 images have the label file of another image: their names differ only in the suffix" in dataset.warnings[0]


def test_labelimgs_class_names_in_a_folder_of_labels_are_no_labels(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt")
    (tmp_path / "labels" / "train" / "classes.txt").write_text("kite\ncup\n")
    (tmp_path / "data.yaml").write_text(YAML)
    assert all(one.noun != "label file" for one in open_dataset(tmp_path, "train").findings)


def test_commas_between_numbers_are_named(tmp_path: Path) -> None:
    place(tmp_path, "images/train/a.png", "labels/train/a.txt", f"{BOX}\n1,0.5,0.5,0.25,0.5\n1, 0.5, 0.5, 0.2, 0.5")
    (tmp_path / "data.yaml").write_text(YAML)
    assert "2 annotations have commas; expected numbers with" in open_dataset(tmp_path, "train").warnings[0]
