"""Hidden files and folders are not annotations, images or splits: ._NAME of macOS, .ipynb_checkpoints, .thumbnails."""

from __future__ import annotations

import shutil
from pathlib import Path

from PIL import Image

from rcnn.data import Dataset, open_dataset, splits
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco, write_images
from tests.unit.data.format_folders import drawn, voc_file, voc_object, write_sbd

SIZE = (40, 60)
APPLE_DOUBLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(40) + b"\xff\xfe"  # not text


def add_hidden(root: Path) -> None:
    """Put ._NAME beside every file."""
    for file in [one for one in root.rglob("*") if one.is_file()]:
        (file.parent / f"._{file.name}").write_bytes(APPLE_DOUBLE)


def opened(root: Path, split: str) -> Dataset:
    """The only split, which has no warnings and notes, with hidden files as without them."""
    for hidden in (False, True):
        if hidden:
            add_hidden(root)
        assert splits(root) == [split]
        dataset = open_dataset(root)
        assert (dataset.warnings, dataset.notes) == ((), ())
    return dataset


def test_coco(tmp_path: Path) -> None:
    write_coco(tmp_path, coco_tables([annotation(1)], images=2), "train")
    (tmp_path / "annotations" / "instances_train.json").rename(tmp_path / "train.json")
    assert opened(tmp_path, "train").image_ids == (1, 2)


def test_voc_beside_the_images(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.jpg"])
    (tmp_path / "a.xml").write_text(voc_file("a.jpg", SIZE, [voc_object("cat", (11, 6, 30, 25))]))
    assert opened(tmp_path, "all").image_ids == ("a",)


def test_voc_with_and_without_lists(tmp_path: Path) -> None:
    write_images(tmp_path / "JPEGImages", ["a.jpg"])
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_text(voc_file("a.jpg", SIZE, [voc_object("cat", (11, 6, 30, 25))]))
    assert opened(tmp_path, "all").image_ids == ("a",)
    (tmp_path / "ImageSets" / "Main").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    assert opened(tmp_path, "train").image_ids == ("a",)


def test_sbd(tmp_path: Path) -> None:
    assert opened(write_sbd(tmp_path, ["2008_000002"]), "train").image_ids == ("2008_000002",)


def test_yolo(tmp_path: Path) -> None:
    write_images(tmp_path / "images" / "train", ["a.png"])
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (tmp_path / "coco.names").write_text("cat\n")
    assert opened(tmp_path, "train").classes == ("cat",)
    for name in (".ipynb_checkpoints", ".thumbnails"):
        shutil.copytree(tmp_path / "images" / "train", tmp_path / "images" / "train" / name)
    assert opened(tmp_path, "train").image_ids == ("images/train/a.png",)


def test_masks(tmp_path: Path) -> None:
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "masks").mkdir()
    Image.fromarray(drawn()[0]).save(tmp_path / "masks" / "a.png")
    shutil.copytree(tmp_path / "masks", tmp_path / "masks" / ".ipynb_checkpoints")
    assert opened(tmp_path, "all").image_ids == ("images/a.png",)


def test_a_hidden_file_of_a_yolo_folder(tmp_path: Path) -> None:
    """An editor's copy that can be read."""
    write_images(tmp_path / "images" / "train", ["a.png"])
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    text = "train: images/train\nnames: [kite]\n"
    (tmp_path / "data.yaml").write_text(text)
    (tmp_path / ".data.yaml").write_text(text.replace("kite", "cup"))
    assert open_dataset(tmp_path).classes == ("kite",)
    (tmp_path / "data.yaml").rename(tmp_path / "kites.yaml")
    assert open_dataset(tmp_path).classes == ("kite",)
