"""What the notes and warnings about YOLO's data sets say."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import MagicMock

import pytest

from rcnn.data import open_dataset, splits
from rcnn.data.formats import yolo_layouts, yolo_yaml
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
    assert dataset.classes[:3] == ("date", "class_1", "class_2")
    [warning] = dataset.warnings
    expected = "7 classes have no name in names, which has names up to number 9 (id 1, 2, 3, 4, 6 and 2 more): called"
    assert f"data.yaml: {expected}" in warning
    sound_names = ("{1: fig, 0: date}", "[date, fig]", "{'1': fig, '0': date}", '{"0": date, 1: fig}')
    for number, names in enumerate(sound_names):
        sound = open_dataset(write_yolo(tmp_path / str(number), names), "train")
        assert (sound.notes, sound.warnings, sound.classes) == ((), (), ("date", "fig"))


def test_a_name_for_a_gap_leaves_the_names_of_the_file_as_they_are(tmp_path: Path) -> None:
    dataset = open_dataset(write_yolo(tmp_path, "{0: a, 2: class_1, 4: b}", label="2 .5 .5 .2 .2"), "train")
    assert dataset.classes == ("a", "class_1_", "class_1", "class_3", "b")
    [warning] = dataset.warnings
    assert "2 classes have no name" in warning
    assert "(id 1, 3): called class_1_, class_3; add the names" in warning


def test_keys_that_pyyaml_reads_in_another_way(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "[fig]")
    (root / "data.yaml").write_text("train: images/train\n=: 1\nnames: {0: fig}\ntrain: images/train\n")
    dataset = open_dataset(root, "train")
    assert dataset.classes == ("fig",)
    [warning] = dataset.warnings
    assert "1 key has more than one value (train)" in warning


def test_a_number_that_two_keys_of_names_mean_is_reported(tmp_path: Path) -> None:
    dataset = open_dataset(write_yolo(tmp_path, "{0: date, '0': fig}"), "train")
    assert dataset.classes == ("fig",)
    [warning] = dataset.warnings
    assert "1 key has more than one value (names: 0): the last one is used" in warning


def test_classes_without_names_are_numbered_as_ultralytics_does(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "[]", label="2 .5 .5 .2 .2")
    (root / "data.yaml").write_text("train: images/train\nval:\nnc: 3\n")
    assert splits(root) == ["train"]
    dataset = open_dataset(root, "train")
    assert dataset.classes == ("class_0", "class_1", "class_2")
    assert dataset.class_counts["class_2"] == 2
    [note] = dataset.notes
    assert "data.yaml: nc is 3 and there are no names: the classes are called class_0 to class_2" in note
    (root / "classes.txt").write_text("date\nfig\nnut\n")
    assert open_dataset(root, "train").classes == ("date", "fig", "nut"), "a file with names comes first"
    (root / "classes.txt").unlink()
    for count in ("0", "-1", "'3'", "1000000000", "[3]"):
        (root / "data.yaml").write_text(f"train: images/train\nval:\nnc: {count}\n")
        with pytest.raises(ValueError, match=r"names is None, nc .*; expected a list of names, .* or nc, the num"):
            open_dataset(root, "train")


@pytest.mark.parametrize("name", ['"fi\\ng"', '"fi\\u2028g"', '"\\efig"', '"fi\\tg"'])
def test_control_characters_in_names_are_replaced_with_a_warning(name: str, tmp_path: Path) -> None:
    dataset = open_dataset(write_yolo(tmp_path, f"[{name}]"), "train")
    assert dataset.classes in (("fi g",), ("fig",))
    [warning] = dataset.warnings
    assert "1 category has a name with control characters (line breaks, tabs, ...)" in warning
    assert f"(id 0): called {dataset.classes[0]!r}" in warning


def test_a_label_file_that_is_not_text_costs_its_image(tmp_path: Path) -> None:
    root = write_yolo(tmp_path, "[fig]")
    (root / "labels/train/0.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\xff")
    dataset = open_dataset(root, "train")
    assert dataset.file_names == ("images/train/1.png",)
    [warning] = dataset.warnings
    assert warning.endswith(
        "1 label file has content that is not text, or is a folder, pipe or device (labels/train/0.txt): skipped with "
        "its image"
    )
    (root / "labels/train/1.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ValueError, match=r"lists no images that can be used(.|\n)*label files? ha"):
        open_dataset(root, "train")


def test_a_flat_data_yaml_with_many_values_is_refused_before_all_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert yolo_yaml.MAX_VALUES < 100_000  # these take PyYAML 4 seconds
    monkeypatch.setattr(yolo_yaml, "MAX_VALUES", 300)
    root = write_yolo(tmp_path, "[fig]")
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text + "other:\n" + "- [a]\n" * 100)
    assert len(open_dataset(root, "train")) == 2
    (root / "data.yaml").write_text(text + "other:\n" + "- [a]\n" * 200 + "- [not YAML\n")
    with pytest.raises(ValueError, match=r"data.yaml is not YAML \(more than 300 values; expected the splits"):
        open_dataset(root, "train")


def test_paths_that_are_repeated_are_searched_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_yolo(tmp_path, "[fig]")
    paths = "[" + ", ".join(["images/train"] * 2000) + "]"
    (root / "data.yaml").write_text(f"train: {paths}\nval: {paths}\nnames: [fig]\n")
    searched = MagicMock(side_effect=yolo_layouts.resolved)
    monkeypatch.setattr(yolo_layouts, "resolved", searched)
    assert len(open_dataset(root, "train")) == 2
    assert searched.call_count < 10


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
