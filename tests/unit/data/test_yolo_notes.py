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


@pytest.mark.parametrize("folder", ["labels", "labels/Train", "labels/old/train"])
def test_label_files_in_another_folder_are_named(folder: str, tmp_path: Path) -> None:
    [finding] = open_dataset(write_yolo(tmp_path, "[fig]", labels=folder), "train", allow_empty=True).findings
    assert finding.kind == "no-labels"
    expected = (
        "2 images have no label file; expected e.g. labels/train/0.txt for images/train/0.png, but label files of "
    )
    assert f"{expected}these names are in {tmp_path / folder}: move them (id 0.png, 1.png)" in finding.line()


def test_label_files_of_other_images_are_not_named(tmp_path: Path) -> None:
    """val has photos of its own with the names of those in train, and no labels."""
    root = write_yolo(tmp_path, "[fig]")
    write_images(root / "images" / "val", ["0.png"])
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [fig]\n")
    [finding] = open_dataset(root, "val", allow_empty=True).findings
    assert "no label file; expected e.g. labels/val/0.txt for images/val/0.png (id 0.png)" in finding.line()
