"""Images that are held out from training: which ones, and that they are found again."""

from __future__ import annotations

import json
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
