"""Runs on a data set with one annotation file for all splits, `--annotations labels.json`."""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from rcnn.data import open_dataset
from rcnn.data.held_out import HeldOut
from rcnn.data.opening import DatasetOptions
from rcnn.evaluation.opening import dataset_for, trained_on_warning
from rcnn.training.plan import RunPlan, plan_training
from rcnn.training.request import RunRequest
from tests.tiny_data import TINY_MODEL, write_tiny_coco

FILE = "labels.json"
BRIEF = (*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0")


@pytest.fixture(scope="module")
def one_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images, and one annotation file."""
    root = write_tiny_coco(tmp_path_factory.mktemp("one_file"), {"train": 12}, size=(48, 64))
    shutil.move(root / "annotations" / "instances_train.json", root / FILE)
    return root


def planned(data: Path, **options: Any) -> RunPlan:
    request = RunRequest(
        model="mask_rcnn_compact", data=data, overrides=BRIEF, device="cpu", annotations=FILE, images="train", **options
    )
    return plan_training(request)


def test_the_held_out_images_are_evaluated_on(one_file: Path) -> None:
    plan = planned(one_file, split="all")
    assert plan.held_out is not None
    options = DatasetOptions(annotations=FILE, images="train")
    dataset = dataset_for(None, one_file, held_out=plan.held_out, options=options)
    assert set(dataset.file_names) == set(plan.held_out.files)
    assert not set(dataset.file_names) & set(plan.dataset.file_names)
    assert not trained_on_warning(dataset, "", held_out=plan.held_out, trained=plan.trained_images)


def test_a_validation_split_must_be_a_list_of_images(one_file: Path) -> None:
    with pytest.raises(ValueError, match=r"--val-split\) is val, but labels\.json is one file .*; expected a list of"):
        planned(one_file, split="train", val_splits=("val",))
    every = open_dataset(one_file, "all", annotations=FILE, images="train").image_ids
    for name, ids in (("train.txt", every[:8]), ("val.txt", every[8:])):
        (one_file / name).write_text("\n".join(map(str, ids)))
    plan = planned(one_file, split="train.txt", val_splits=("val.txt",))
    assert (plan.dataset.image_ids, plan.validations[0].image_ids) == (every[:8], every[8:])
    assert planned(one_file, split="train", val_splits=("none",)).validations == ()


def test_another_data_set_without_the_held_out_images_is_evaluated_as_a_whole(one_file: Path, tmp_path: Path) -> None:
    plan = planned(one_file, split="all")
    other = write_tiny_coco(tmp_path / "other", {"new": 2}, size=(48, 64))
    shutil.move(other / "annotations" / "instances_new.json", other / FILE)
    options = DatasetOptions(annotations=FILE, images="new")
    dataset = dataset_for(None, other, held_out=plan.held_out, options=options)
    assert sorted(dataset.file_names) == ["new_1.png", "new_2.png"]


def test_images_that_several_lists_held_out_are_opened_once(one_file: Path) -> None:
    """One of them is not in the data set any more, so its other splits are searched: there are none."""
    every = open_dataset(one_file, "all", annotations=FILE, images="train")
    for name, ids in (("a.txt", every.image_ids[:8]), ("b.txt", every.image_ids[8:])):
        (one_file / name).write_text("\n".join(map(str, ids)))
    hashes = [sha256(record.path.read_bytes()).hexdigest() for record in list(every)[2:4]]
    files = tuple(f"old/{name}" for name in (*every.file_names[2:4], "gone.png"))
    held_out = HeldOut(split="a.txt+b.txt", fraction=0.2, files=files, contents=(*hashes, "0" * 64))
    options = DatasetOptions(annotations=FILE, images="train")
    assert dataset_for(None, one_file, held_out=held_out, options=options).file_names == every.file_names[2:4]


def test_warnings_about_some_of_the_splits_name_them(one_file: Path, tmp_path: Path) -> None:
    """Three lists of one file: its faults are those of all, and what is evaluated differs between the lists."""
    root = shutil.copytree(one_file, tmp_path / "data")
    tables = json.loads((root / FILE).read_text())
    ids = [image["id"] for image in tables["images"]]
    tables["categories"][0]["supercategory"] = []  # a fault of the file
    lists = {"train.txt": ids[:8], "day.txt": ids[8:10], "night.txt": ids[10:]}
    for entry in tables["annotations"]:
        if entry["image_id"] in lists["night.txt"]:
            del entry["segmentation"]
    flat = next(entry for entry in tables["annotations"] if entry["image_id"] == ids[8])
    flat["bbox"] = [1, 1, 0, 5]
    del flat["segmentation"]
    (root / FILE).write_text(json.dumps(tables))
    for name, own in lists.items():
        (root / name).write_text("\n".join(map(str, own)))
    warnings = planned(root, split="train.txt", val_splits=("day.txt", "night.txt")).warnings
    about = f"{root / FILE}: 1 category has a supercategory that is not text (id 10): not used"
    assert [line for line in warnings if "supercategory" in line] == [about]
    [line] = [line for line in warnings if "zero size" in line]
    assert line.startswith(f"split day.txt: {root / FILE}: 1 annotation has a box of zero size (id {flat['id']})")
    [line] = [line for line in warnings if "masks are not evaluated" in line]
    assert line.startswith("split night.txt: masks are not evaluated")
