"""What the notes and warnings about YOLO's data sets say."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.data import open_dataset
from tests.unit.data.coco_folders import write_images


def write_yolo(root: Path, names: str, labels: str = "labels/train", label: str = "0 .5 .5 .2 .2") -> Path:
    """images/train/0.png and 1.png, each with an object in a file of the folder `labels`."""
    write_images(root / "images" / "train", ["0.png", "1.png"])
    (root / labels).mkdir(parents=True)
    for name in ("0.txt", "1.txt"):
        (root / labels / name).write_text(f"{label}\n")
    (root / "data.yaml").write_text(f"train: images/train\nval:\nnames: {names}\n")
    return root


def test_classes_without_a_name_are_counted_once(tmp_path: Path) -> None:
    dataset = open_dataset(
        write_yolo(tmp_path / "gaps", "{0: date, 5: fig, 9: hazelnut}", label="9 .5 .5 .2 .2"), "train"
    )
    assert (len(dataset.classes), dataset.class_counts["hazelnut"]) == (10, 2)
    [note] = dataset.notes
    expected = "data.yaml: 3 names for the class numbers 0 to 9: the other 7 (1, 2, 3, 4, 6 and 2 more) are classes too"
    assert expected in note
    for number, names in enumerate(("{1: fig, 0: date}", "[date, fig]")):
        assert open_dataset(write_yolo(tmp_path / str(number), names), "train").notes == ()


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("../datasets/shapes", True),
        ("/content/shapes", True),
        ("C:\\data\\photos", False),
        ("../datasets/photos/", False),
        ("photos", False),
        (".", False),
    ],
)
def test_a_path_that_does_not_exist_is_named_unless_it_is_that_of_the_folder(
    path: str, named: bool, tmp_path: Path
) -> None:
    root = write_yolo(tmp_path / "photos", "[fig]")
    file = root / "data.yaml"
    file.write_text(f"path: {path}\n{file.read_text()}")
    dataset = open_dataset(root, "train")
    assert len(dataset.objects.labels) == 2
    line = f"{file}: path is {path!r}, which does not exist; {root} is used"
    assert dataset.notes == ((line,) if named else ())


@pytest.mark.parametrize("folder", ["labels", "labels/Train", "labels/old/train", "annotations", "yolo/txt/train"])
def test_label_files_in_another_folder_are_named(folder: str, tmp_path: Path) -> None:
    [finding] = open_dataset(write_yolo(tmp_path, "[fig]", labels=folder), "train", allow_empty=True).findings
    assert finding.kind == "no-labels"
    expected = (
        "2 images have no label file; expected e.g. labels/train/0.txt for images/train/0.png, but label files of "
    )
    assert f"{expected}these names are in {tmp_path / folder}: move them there (id 0.png, 1.png)" in finding.line()


def test_label_files_of_a_split_with_its_own_folders_are_not_named(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_images(tmp_path / split / "images", ["0.png"])
    (tmp_path / "train" / "labels").mkdir()
    (tmp_path / "train" / "labels" / "0.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "data.yaml").write_text("train: train/images\nval: val/images\nnames: [fig]\n")
    [finding] = open_dataset(tmp_path, "val", allow_empty=True).findings
    assert "expected e.g. val/labels/0.txt for val/images/0.png (id 0.png)" in finding.line()


@pytest.mark.parametrize(
    ("image", "label", "expected"),
    [
        (
            "photos/a.png",
            "Annotation/a.txt",
            "a.png in YOLO's format. Put the images into images/ and .* No file has",
        ),
        (
            "a.png",
            "a.txt",
            "a.txt looks like the label file of a.png in YOLO's format. No file has",
        ),
    ],
)
def test_label_files_in_a_folder_that_is_not_recognised(tmp_path: Path, image: str, label: str, expected: str) -> None:
    write_images((tmp_path / image).parent, [Path(image).name])
    (tmp_path / label).parent.mkdir(exist_ok=True)
    (tmp_path / label).write_text("\n0 0.5 0.5 0.25 0.25\n")
    with pytest.raises(FileNotFoundError, match=expected):
        open_dataset(tmp_path)
    (tmp_path / label).write_text("a photo of 3 kites, 2 cups and 5 dogs\n")
    with pytest.raises(FileNotFoundError, match="There are images, but no annotations"):
        open_dataset(tmp_path)


def test_label_files_of_other_images_are_not_named(tmp_path: Path) -> None:
    """val has photos of its own with the names of those in train, and no labels."""
    root = write_yolo(tmp_path, "[fig]")
    write_images(root / "images" / "val", ["0.png"])
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [fig]\n")
    [finding] = open_dataset(root, "val", allow_empty=True).findings
    assert "no label file; expected e.g. labels/val/0.txt for images/val/0.png (id 0.png)" in finding.line()
