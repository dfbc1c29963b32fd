"""What the notes and warnings about YOLO's data sets say."""

from __future__ import annotations

from pathlib import Path

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
