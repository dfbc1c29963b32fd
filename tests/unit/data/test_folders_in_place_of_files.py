"""A folder with the name of an annotation file is skipped, or refused with its path; never an IsADirectoryError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

import pytest
from PIL import Image

import rcnn
from rcnn.data import splits
from rcnn.data.folders import walk
from rcnn.data.formats import yolo_yaml
from rcnn.outputs import MARKER, OutputFolder
from rcnn.text_files import read_json, read_text
from tests.tiny_data import write_tiny_coco

VOC = (
    "<annotation><size><width>32</width><height>32</height></size><object><name>disc</name><bndbox><xmin>2</xmin>"
    "<ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object></annotation>"
)
LABELME = (
    '{"imagePath": "%s.png", "imageHeight": 32, "imageWidth": 32, "shapes": [{"label": "disc", '
    '"shape_type": "rectangle", "points": [[2, 2], [20, 20]]}]}'
)


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32)).save(path)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _yolo(folder: Path) -> None:
    for name in ("a", "b"):
        _image(folder / "images" / "train" / f"{name}.png")
        _write(folder / "labels" / "train" / f"{name}.txt", "0 0.5 0.5 0.4 0.4\n")
    _write(folder / "classes.txt", "disc\n")
    _write(folder / "data.yaml", "names: [disc]\ntrain: images/train\n")


def _darknet(folder: Path) -> None:
    for name in ("a", "b"):
        _image(folder / "obj" / f"{name}.png")
        _write(folder / "obj" / f"{name}.txt", "0 0.5 0.5 0.4 0.4\n")
    _write(folder / "train.txt", "obj/a.png\nobj/b.png\n")
    _write(folder / "obj.names", "disc\n")
    _write(folder / "obj.data", "classes = 1\ntrain = train.txt\nnames = obj.names\n")


def _voc(folder: Path) -> None:
    for name in ("a", "b"):
        _image(folder / "JPEGImages" / f"{name}.png")
        _write(folder / "Annotations" / f"{name}.xml", VOC)
    _write(folder / "ImageSets" / "Main" / "train.txt", "a\nb\n")


def _labelme(folder: Path) -> None:
    for name in ("a", "b"):
        _image(folder / f"{name}.png")
        _write(folder / f"{name}.json", LABELME % name)
    _write(folder / "labels.txt", "disc\n")


def _coco(folder: Path) -> None:
    write_tiny_coco(folder, {"train": 1, "val": 1}, size=(32, 32), objects=1)


CASES: list[tuple[Callable[[Path], None], str, str]] = [  # data set, name of the folder, and what happens (a split)
    (_yolo, "data.yaml", "train"),
    (_yolo, "classes.txt", "train"),
    (_yolo, "labels/train/a.txt", "train"),
    (_yolo, "obj.names", "train"),
    (_yolo, "a.yml", "train"),
    (_yolo, "annotations.json", "train"),
    (_yolo, "_annotations.coco.json", "train"),
    (_darknet, "train.txt", "refused"),
    (_darknet, "obj.names", "refused"),
    (_darknet, "obj.data", "train"),
    (_darknet, "obj/a.txt", "train"),
    (_darknet, "data.yaml", "train"),
    (_voc, "Annotations/a.xml", "train"),
    (_voc, "ImageSets/Main/train.txt", "all"),
    (_labelme, "a.json", "all"),
    (_labelme, "labels.txt", "all"),
    (_labelme, "via_region_data.json", "all"),
    (_coco, "annotations/instances_train.json", "val"),
    (_coco, "annotations/instances_test.json", "train"),
    (_coco, "train.json", "train"),
]


@pytest.mark.parametrize(("write", "name", "split"), CASES, ids=[f"{one.__name__}-{name}" for one, name, _ in CASES])
def test_a_data_set_with_a_folder_in_place_of_a_file(
    write: Callable[[Path], None], name: str, split: str, tmp_path: Path
) -> None:
    write(tmp_path / "data")
    path = tmp_path / "data" / name
    path.unlink(missing_ok=True)
    (path / "inner").mkdir(parents=True)
    if split == "refused":
        with pytest.raises((ValueError, FileNotFoundError), match="data"):
            rcnn.open_dataset(tmp_path / "data", "train")
    else:
        assert split in splits(tmp_path / "data")
        assert rcnn.open_dataset(tmp_path / "data", split).num_training_objects
    report = rcnn.check_dataset(tmp_path / "data") if split != "refused" else None
    assert report is None or report.images


def test_a_file_that_the_user_names_may_not_be_a_folder(tmp_path: Path) -> None:
    _coco(tmp_path / "data")
    (tmp_path / "ids.txt").mkdir()
    with pytest.raises(ValueError, match=r"ids\.txt is a folder; expected a file: give the path of a file"):
        rcnn.open_dataset(tmp_path / "data", f"train:{tmp_path / 'ids.txt'}")
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match=r"ids\.txt is a folder; expected a file: put the file back, or rename"):
            read(tmp_path / "ids.txt")


def test_what_rcnn_wrote_below_the_images_is_no_data(tmp_path: Path) -> None:
    """Labels beside the images, in one folder: a run, or predictions, below it have pictures too."""
    for name in ("a", "b"):
        _image(tmp_path / f"{name}.png")
        _write(tmp_path / f"{name}.txt", "0 0.5 0.5 0.4 0.4\n")
    _write(tmp_path / "classes.txt", "disc\n")
    _image(tmp_path / "night" / "c.png")  # the user's own
    for place in ("runs/train-1", "night"):
        with OutputFolder(tmp_path / place) as output:
            output.claim("log.jsonl").touch()
            _image(output.claim("pictures") / "a" / "step-1.jpg")
            with output.writing("d-2.jpg") as picture:
                Image.new("RGB", (32, 32)).save(picture)
    assert sorted(rcnn.open_dataset(tmp_path).file_names) == ["a.png", "b.png", "night/c.png"]
    assert len(list(tmp_path.rglob("*.jpg"))) == 4


@pytest.mark.parametrize("value", ["[" * 300 + "]" * 300, "\n  " + "- " * 2000 + "1"], ids=["brackets", "dashes"])
def test_a_deeply_nested_data_yaml_is_read_once(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _yolo(tmp_path)
    _write(tmp_path / "data.yaml", f"names: [disc]\ntrain: images/train\nother: {value}\n")
    read = MagicMock(side_effect=yolo_yaml.yaml_value)
    monkeypatch.setattr(yolo_yaml, "yaml_value", read)
    with pytest.raises(ValueError, match=r"data\.yaml is not YAML \(.*; expected lists and mappings in a few"):
        rcnn.open_dataset(tmp_path, "train")
    assert "is not YAML" in "\n".join(rcnn.check_dataset(tmp_path).lines())
    assert read.call_count == 1
    _write(tmp_path / "data.yaml", "names: [disc]\ntrain: images/train\n")
    assert len(rcnn.open_dataset(tmp_path, "train")) == 2  # the file is another one now


def test_only_what_rcnn_wrote_is_skipped(tmp_path: Path) -> None:
    """Also copies of the data; not folders with lists that are damaged or of another program."""
    with OutputFolder(tmp_path / "divided") as output:
        _image(output.claim("train") / "a.png")
        output.write_text("instances_train.json", "{}")
    with OutputFolder(tmp_path / "unfinished") as output:
        output.claim("predictions.partial.jsonl").touch()
        _image(output.claim("b.png"))
    with OutputFolder(tmp_path / "visualize-1") as output:
        _image(output.claim("c.png"))
    for name, marker in (("damaged", '{"file": 1}\n'), ("foreign", "other program")):
        _image(tmp_path / name / "d.png")
        (tmp_path / name / MARKER).write_text(marker)
    found = [place / name for place, names in walk(tmp_path) for name in names if name.endswith(".png")]
    assert [str(one.relative_to(tmp_path)) for one in found] == [
        "damaged/d.png",
        "foreign/d.png",
    ]


def test_a_list_of_files_of_another_user_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / MARKER).touch()
    monkeypatch.setattr(Path, "read_text", MagicMock(side_effect=PermissionError))
    assert list(walk(tmp_path)) == [(tmp_path, []), (tmp_path / "a", [MARKER])]


def test_the_sound_lines_of_a_damaged_list_of_files_count(tmp_path: Path) -> None:
    _yolo(tmp_path)
    run = tmp_path / "images" / "train" / "run"
    with OutputFolder(run) as output:
        _image(output.claim("pic.png"))
    sound = rcnn.open_dataset(tmp_path, "train")
    with (run / MARKER).open("a") as marker:
        marker.write("bad\n[1]\n" + '{"file": "b.p')  # the last line is of a process that was killed
    dataset = rcnn.open_dataset(tmp_path, "train")
    assert dataset.file_names == sound.file_names
    assert not any("pic.png" in name for name in dataset.file_names)
    [warning] = set(dataset.warnings) - set(sound.warnings)
    assert f"2 lines have content that is not an entry of rcnn's list of the files that it wrote ({run}" in warning
    assert f"{run / MARKER}:2, {run / MARKER}:3): skipped; the file of such an entry counts as data" in warning
