"""Images that are held out from training: which ones, and that they are found again."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

import rcnn
from rcnn.data.held_out import HeldOut, divide_held_out, hold_out
from rcnn.evaluation.opening import dataset_for
from tests.tiny_data import write_tiny_coco


@pytest.mark.parametrize("plain", [False, True], ids=["photos", "one colour"])
def test_images_with_one_file_are_held_out_together(tmp_path: Path, plain: bool) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 12}, size=(48, 64))
    if plain:  # no fingerprint shows that these are copies
        for photo in (data / "train").iterdir():
            Image.new("RGB", (64, 48)).save(photo)
    file = data / "annotations/instances_train.json"
    tables = json.loads(file.read_text())
    tables["images"] += [{**image, "id": f"{image['id']} again"} for image in tables["images"]]
    file.write_text(json.dumps(tables))
    whole = rcnn.open_dataset(data)
    held_out = hold_out(whole, 0.2)
    assert held_out is not None
    assert len(set(held_out.files)) == len(held_out.files) == len(held_out.contents) < 12
    training, validation = divide_held_out(whole, held_out)
    assert len(validation) == 2 * len(held_out.files)
    assert sorted([*training.image_ids, *validation.image_ids], key=str) == sorted(whole.image_ids, key=str)
    assert not set(training.file_names) & set(validation.file_names)
    evaluated = dataset_for(None, data, held_out=held_out)
    assert evaluated.image_ids == validation.image_ids
    again = HeldOut.of(evaluated)
    assert again is not None
    assert (again.split, sorted(again.files)) == ("train", sorted(held_out.files))
    assert "not in this split" not in evaluated.notes[-1]


@pytest.fixture
def numbered(tmp_path: Path) -> tuple[Path, HeldOut]:
    """A data set, and its images 1 and 12 as those that a run held out."""
    data = write_tiny_coco(tmp_path / "data", {"train": 12}, size=(40, 48))
    files = ("train_1.png", "train_12.png")
    contents = tuple(sha256((data / "train" / name).read_bytes()).hexdigest() for name in files)
    return data, HeldOut(split="train", fraction=0.2, files=files, contents=contents)


def test_photos_of_another_data_set_with_the_same_names_are_noted(
    numbered: tuple[Path, HeldOut], tmp_path: Path
) -> None:
    data, held_out = numbered
    assert "other contents" not in dataset_for(None, data, held_out=held_out).notes[-1]
    other = write_tiny_coco(tmp_path / "other", {"new": 12}, size=(48, 48))
    for image in (other / "new").iterdir():
        image.rename(image.with_name(image.name.replace("new", "train")))
    file = other / "annotations/instances_new.json"
    file.write_text(file.read_text().replace("new_", "train_"))
    note = dataset_for(None, other, held_out=held_out).notes[-1]
    assert "they have the names of these images, but other contents: edited, or photos of another data set" in note
    assert "split=new (--split) evaluates on all 12 images" in note


def test_another_data_set_with_some_of_the_names_is_evaluated_as_a_whole(
    numbered: tuple[Path, HeldOut], tmp_path: Path
) -> None:
    data, held_out = numbered
    other = write_tiny_coco(tmp_path / "other", {"train": 6}, size=(48, 48))
    assert len(dataset_for(None, other, held_out=held_out)) == 6
    (data / "train" / "train_12.png").unlink()  # the data set itself, which has lost an image
    with pytest.raises(ValueError, match=r"does not have 1 image .*train_12.png.* with split \(--split\), to eval"):
        dataset_for(None, data, held_out=held_out)
