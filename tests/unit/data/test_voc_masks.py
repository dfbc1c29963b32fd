"""Instances in VOC's layout without XML files: those of labelme2voc and of CVAT."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rcnn.data import Dataset, open_dataset, splits
from rcnn.data.formats import many_files, voc_masks
from tests.unit.data.coco_folders import write_images
from tests.unit.data.format_folders import drawn

SIZE = (40, 60)


def has_the_drawn_instances(dataset: Dataset, classes: tuple[str, ...], labels: list[int]) -> bool:
    """True; a difference fails."""
    assert (dataset.classes, dataset.metric, dataset.warnings) == (classes, "coco", ())
    [record] = dataset
    assert record.boxes.tolist() == [[10, 5, 30, 25], [30, 5, 50, 35], [0, 36, 9, 40]]
    assert record.areas.tolist() == [400, 600, 36]
    assert record.labels.tolist() == labels
    return True


@pytest.mark.parametrize("form", ["png", "folder of PNG", "npy", "folder of NPY"])
def test_labelme2voc_has_instances_without_xml(tmp_path: Path, form: str) -> None:
    """As its versions write them; in arrays, pixels of the label __ignore__ have the class -1."""
    write_images(tmp_path / "JPEGImages", ["a b.jpg"])
    (tmp_path / "class_names.txt").write_text("_background_\nleaf\nstem")
    (tmp_path / "SegmentationObjectVisualization").mkdir()
    ending = {"folder of PNG": "PNG", "folder of NPY": "Npy"}.get(form, "")
    for kind, values in zip(("SegmentationObject", "SegmentationClass"), drawn(), strict=True):
        folder = tmp_path / f"{kind}{ending}"
        folder.mkdir()
        if "png" in form.lower():
            picture = Image.fromarray(values)
            picture.putpalette(list(range(256)) * 3)
            picture.save(folder / "a b.png")
        else:
            array = values.astype(np.int32)
            array[0, 0] = -1 if kind == "SegmentationClass" else 0
            np.save(folder / "a b.npy", array)
    assert splits(tmp_path) == ["all"]
    assert has_the_drawn_instances(open_dataset(tmp_path), ("leaf", "stem"), [0, 1, 0])


COLOURS = np.array([(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0)], np.uint8)  # of VOC's ids 0 to 3
LABELS = (
    "# label:color_rgb:parts:actions\nstem:250,50,83:hand,foot:jump\nbackground:0,0,0::\na:b:255,0,0::\nnone:9,9,9::\n"
)


@pytest.mark.parametrize("images", ["JPEGImages", "images", ""])
def test_cvats_masks_have_a_colour_per_instance_and_class(tmp_path: Path, images: str) -> None:
    ids, classes = drawn()
    colours = np.array([(0, 0, 0), (255, 0, 0), (250, 50, 83)], np.uint8)
    write_images(tmp_path / images, ["my photo.jpg"])
    for folder, values in (("SegmentationObject", COLOURS[ids]), ("SegmentationClass", colours[classes])):
        values[0] = (224, 224, 192)  # VOC's border
        (tmp_path / folder).mkdir()
        Image.fromarray(values).save(tmp_path / folder / "my photo.png")
    (tmp_path / "labelmap.txt").write_text(LABELS)
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "default.txt").write_text('"my photo"\n')
    assert splits(tmp_path) == ["default"]
    dataset = open_dataset(tmp_path)
    record = dataset[0]
    order = [dataset.classes[label] for label in record.labels]
    assert dataset.classes == ("stem", "a:b", "none")
    assert sorted(zip(order, record.areas.tolist(), strict=True)) == [("a:b", 36), ("a:b", 400), ("stem", 600)]
    assert dataset.warnings == ()


def test_numbers_of_classes_in_a_labelmap_count_without_the_background(tmp_path: Path) -> None:
    ids, classes = drawn()
    write_images(tmp_path / "JPEGImages", ["a.jpg"])
    (tmp_path / "labelmap.txt").write_text(LABELS)
    for folder, values in (("SegmentationObject", ids), ("SegmentationClass", classes)):
        (tmp_path / folder).mkdir()
        Image.fromarray(values).save(tmp_path / folder / "a.png")
    assert has_the_drawn_instances(open_dataset(tmp_path), ("stem", "a:b", "none"), [0, 1, 0])


def test_colours_that_the_labelmap_does_not_have_are_one_finding_with_those_that_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, _ = drawn()
    write_images(tmp_path / "JPEGImages", [f"{name}.jpg" for name in "abc"])
    read = list[np.ndarray]()

    def instances(ids: np.ndarray, background: Collection[int]) -> Iterator[Any]:
        read.append(ids)
        return many_files.instances(ids, background)

    monkeypatch.setattr(voc_masks, "instances", instances)
    for name, shades in (("a", [10, 40, 10]), ("b", [250, 250, 250]), ("c", [70, 10, 10])):
        classes = np.zeros((*SIZE, 3), np.uint8)
        for number, shade in enumerate(shades, start=1):  # 250,50,83 is a class, the others are not
            classes[ids == number] = (shade, 50 if shade == 250 else 0, 83 if shade == 250 else 0)
        for folder, values in (("SegmentationObject", COLOURS[ids]), ("SegmentationClass", classes)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"{name}.png")
    (tmp_path / "labelmap.txt").write_text(LABELS)
    dataset = open_dataset(tmp_path)
    assert len(read) == 3, "each image is sorted once"
    assert len(dataset[1].labels) == 3
    found = {one.kind: one for one in dataset.findings}
    assert (len(dataset.findings), found["all-skipped"].ids) == (2, ("a", "c"))
    unknown = found["no-class"]
    colours, listed = "10,0,0, 40,0,0, 70,0,0", "(it has stem: 250,50,83, a:b: 255,0,0, none: 9,9,9)"
    assert unknown.what == f"a colour in SegmentationClass that labelmap.txt does not have: {colours} {listed}"
    assert (len(unknown.ids), {name[0] for name in map(str, unknown.ids)}) == (6, {"a", "c"})
    (tmp_path / "labelmap.txt").unlink()
    (tmp_path / "class_names.txt").write_text("_background_\nstem\n")
    found = {one.kind: one for one in open_dataset(tmp_path, allow_empty=True).findings}
    numbers = f"10, 40, {250 + 256 * 50 + 65536 * 83}, 70"
    assert found["no-class"].what == f"a number in SegmentationClass that class_names.txt does not have: {numbers}"


def test_lists_may_name_images_that_end_in_a_number(tmp_path: Path) -> None:
    (tmp_path / "class_names.txt").write_text("_background_\nleaf\nstem")
    write_images(tmp_path / "JPEGImages", ["photo 1.jpg", "photo.jpg"])
    for kind, values in zip(("SegmentationObject", "SegmentationClass"), drawn(), strict=True):
        (tmp_path / kind).mkdir()
        for name in ("photo 1", "photo"):
            Image.fromarray(values).save(tmp_path / kind / f"{name}.png")
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "ImageSets" / "Segmentation" / "val.txt").write_text("photo 1\n")
    assert open_dataset(tmp_path, "val").image_ids == ("photo 1",)
    (tmp_path / "SegmentationObject" / "photo 1.png").unlink()
    assert open_dataset(tmp_path, "val").image_ids == ("photo",)  # with a second column, as in VOC's lists of a class


@pytest.mark.parametrize(("first", "noted"), [("cat", True), ("_background_", False), ("Background", False)])
def test_a_first_class_name_that_is_no_background_is_noted(tmp_path: Path, first: str, noted: bool) -> None:
    (tmp_path / "class_names.txt").write_text(f"{first}\nleaf\nstem\n")
    write_images(tmp_path / "JPEGImages", ["a.jpg"])
    for kind, values in zip(("SegmentationObject", "SegmentationClass"), drawn(), strict=True):
        (tmp_path / kind).mkdir()
        Image.fromarray(values).save(tmp_path / kind / "a.png")
    dataset = open_dataset(tmp_path)
    assert dataset.classes == ("leaf", "stem")
    expected = ["'cat', the first line of class_names.txt, is the background; if it is a class, add the line"]
    assert [line.split(": ", 1)[1].startswith(expected[0]) for line in dataset.notes] == [True] * noted


@pytest.mark.parametrize("header", ["{'descr': '<i8', 'fortran_order': Fa(", "{'descr': '''", "(" * 3000, "  1\n 2"])
def test_an_array_with_a_damaged_header_is_refused_by_its_name(header: str, tmp_path: Path) -> None:
    """numpy raises errors of Python's tokenizer for some of these."""
    (tmp_path / "SegmentationObject").mkdir()
    file = tmp_path / "SegmentationObject" / "a.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(4800))
    with pytest.raises(ValueError, match="header"):
        voc_masks.read_map(tmp_path, "SegmentationObject", "a")
