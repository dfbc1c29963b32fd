"""The data of a run: held-out validation images, several validation sets, data sets from Python."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import rcnn
from rcnn.evaluation.opening import dataset_for, held_out_of, trained_on_warning
from rcnn.predictor import Predictor
from rcnn.training.describe import class_lines, describe_plan, describe_start
from rcnn.training.log import read_log
from rcnn.training.plan import RunPlan, plan_training
from rcnn.training.request import RunRequest
from rcnn.training.run_data import choose_splits
from tests.command import rcnn as command
from tests.tiny_data import TINY_MODEL, write_tiny_coco

BRIEF = (*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0")


@pytest.fixture(scope="module")
def undivided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve training images, and no validation split."""
    return write_tiny_coco(tmp_path_factory.mktemp("undivided"), {"train": 12}, size=(48, 64))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training split and two validation splits."""
    return write_tiny_coco(tmp_path_factory.mktemp("several"), {"train": 2, "val": 2, "val_night": 1}, size=(48, 64))


def planned(data: Path | rcnn.Dataset, words: tuple[str, ...] = BRIEF, **options: Any) -> RunPlan:
    return plan_training(RunRequest(model="mask_rcnn_compact", data=data, overrides=words, device="cpu", **options))


def test_images_are_held_out_where_there_is_no_validation_split(undivided: Path) -> None:
    plan = planned(undivided)
    assert plan.held_out is not None
    [validation] = plan.validations
    assert (len(plan.dataset), len(validation)) == (10, 2)
    assert not set(plan.dataset.image_ids) & set(validation.image_ids)
    assert set(validation.file_names) == set(plan.held_out.files)
    assert (plan.dataset.split, validation.split) == ("train", "train (held out)")
    text = "2 of 12 images are held out from training, see val_fraction (--val-fraction): 16.7% (requested: 20.0%)"
    assert all(text in "\n".join(describe_start(one)) for one in (plan, planned(undivided, val_fraction=0.2)))
    assert planned(undivided).held_out == plan.held_out
    record = json.loads(json.dumps(plan.record()))
    assert record["splits"] == ["train", "none"]
    assert record["held_out"] == {
        "split": "train",
        "fraction": 0.2,
        "files": list(plan.held_out.files),
        "contents": [sha256((undivided / "train" / name).read_bytes()).hexdigest() for name in plan.held_out.files],
    }


def test_the_fraction_that_is_held_out(undivided: Path, several: Path) -> None:
    half = planned(undivided, val_fraction=0.5)
    assert len(half.validations[0]) == 6
    without: list[dict[str, Any]] = [{"val_fraction": 0.0}, {"val_splits": ("none",)}]
    for options in without:
        plan = planned(undivided, **options)
        assert (plan.validations, plan.held_out, len(plan.dataset)) == ((), None, 12)
    plan = planned(undivided, val_fraction=0.0)
    reason = (
        "no split starts with 'val', and val_fraction=0 (--val-fraction) holds no images out; choose a split with "
        "val_split (--val-split)"
    )
    assert f"no evaluation, so no best/ ({reason})" in "\n".join(describe_start(plan))
    expected = r"val_fraction=1.0 \(--val-fraction\): expected 0 \(no images\) to less than 1"
    with pytest.raises(ValueError, match=expected):
        planned(undivided, val_fraction=1.0)
    with pytest.raises(ValueError, match=r"val_fraction .* and a validation split .*: give one of them"):
        planned(several, val_fraction=0.5, val_splits=("val",))
    with pytest.raises(ValueError, match=r"has 2 images, too few to hold out 0.5 of them; expected at least 10"):
        planned(several, val_fraction=0.5)
    assert [one.split for one in planned(several).validations] == ["val"]


def test_notes_about_the_data_are_printed_at_the_start_and_in_a_dry_run(several: Path) -> None:
    training = replace(rcnn.open_dataset(several, "train"), notes=("2 masks without an image",))
    plan = plan_training(RunRequest(model="mask_rcnn_compact", data=training, overrides=BRIEF, device="cpu"))
    for lines in (describe_start(plan), describe_plan(plan)):
        assert list(lines).count("2 masks without an image") == 1


def test_the_settings_that_differ_from_their_defaults_are_printed(several: Path) -> None:
    [line] = [
        line for line in describe_start(planned(several, (*BRIEF, "train.ema=0.9"))) if line.startswith("train: ")
    ]
    words, rest = line.removeprefix("train: ").split("; the other ")
    assert {"steps=1", "batch_size=1", "workers=0", "warmup_steps=0", "ema=0.9", "seed=0"} <= set(words.split(" "))
    names = re.findall(r"(\w+)=", words)
    assert "accumulate" not in names
    count = int(rest.removesuffix(" settings have their defaults (config.json has all)"))
    assert len(names) + count == len([one for one in fields(rcnn.TrainConfig) if one.metadata.get("saved", True)])


@pytest.mark.parametrize(("split", "start"), [("val2017", "val"), ("minival2014", "minival")])
def test_the_reason_for_a_validation_split(tmp_path: Path, split: str, start: str) -> None:
    data = write_tiny_coco(tmp_path, {"train2014": 1, split: 1}, size=(48, 64))
    validations, reasons = choose_splits(RunRequest(model="mask_rcnn_compact", data=data))[1:]
    assert (validations, reasons["val-split"]) == ((split,), f"its name starts with '{start}'")


def test_a_small_set_is_not_divided(tmp_path: Path) -> None:
    plan = planned(write_tiny_coco(tmp_path, {"train": 9}, size=(48, 64)))
    assert plan.validations == ()
    reason = "no split starts with 'val'; fewer than 10 images, so none are held out"
    assert plan.reasons["val-split"] == reason
    assert any(f"no evaluation, so no best/ ({reason}" in line for line in describe_start(plan))


def test_a_run_with_held_out_images_is_resumed_and_evaluated(
    undivided: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = rcnn.train("mask_rcnn_compact", undivided, tmp_path / "run", overrides=BRIEF, log=lambda line: None)
    assert run.best is not None
    held_out = held_out_of(run.folder)
    assert held_out is not None
    assert (run.folder / "held_out.txt").read_text().splitlines() == list(held_out.files)
    resumed = planned(undivided, ("train.steps=2",), output=run.folder, resume=True)
    assert resumed.held_out == held_out
    assert set(resumed.validations[0].file_names) == set(held_out.files)
    with pytest.raises(ValueError, match=r"val_fraction \(--val-fraction\) cannot change .*: it is 0.2"):
        planned(undivided, ("train.steps=2",), output=run.folder, resume=True, val_fraction=0.3)
    with pytest.raises(ValueError, match=r"val_split \(--val-split\) cannot change .*: it is not set in .*, got none"):
        planned(undivided, ("train.steps=2",), output=run.folder, resume=True, val_splits=("none",))

    words = ("--data", undivided, "--output", tmp_path / "eval", "--device", "cpu", "--pictures", "0")
    assert command("eval", run.folder, *words) == 0
    assert "evaluating on the 2 images of train that the run held out from training" in capsys.readouterr().out
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["counts"]["images"] == 2
    assert not rcnn.compare(tmp_path / "eval", run.folder, undivided, samples=0, device="cpu").warnings
    whole = rcnn.open_dataset(undivided)
    trained = next(index for index, name in enumerate(whole.file_names) if name not in held_out.files)
    compared = rcnn.compare(run.folder, run.folder, whole.subset([trained]), samples=0, device="cpu")
    assert f"{run.folder} was trained on 1 of the 1 image of train" in compared.warnings[0]
    predictor = Predictor(run.folder, device="cpu")
    assert len(dataset_for(predictor, undivided, "train", held_out=held_out)) == 12
    found = rcnn.evaluate(run.folder, undivided, device="cpu", overrides={"box.score_threshold": 0.999})
    assert found.results == []
    with pytest.raises(ValueError, match=r"overrides \(box.score_threshold=1\) are for a checkpoint"):
        rcnn.evaluate(predictor, undivided, overrides=["box.score_threshold=1"])
    listed = dataset_for(predictor, undivided, f"train:{run.folder / 'held_out.txt'}")
    assert set(listed.file_names) == set(held_out.files)
    other = write_tiny_coco(tmp_path / "other", {"new": 3}, size=(48, 64))
    assert len(dataset_for(predictor, other, held_out=held_out)) == 3
    gone = replace(held_out, files=(*held_out.files, "gone.png"))
    with pytest.raises(ValueError, match=r"does not have 1 image that the run held out from training \(gone.png\)"):
        dataset_for(predictor, undivided, held_out=gone)


@pytest.fixture
def with_val(undivided: Path, tmp_path: Path) -> Path:
    """The training images, and a validation split."""
    folder = write_tiny_coco(tmp_path / "with_val", {"train": 12, "val": 2}, size=(48, 64))
    shutil.rmtree(folder / "train")
    shutil.copytree(undivided / "train", folder / "train")
    return folder


def test_held_out_images_are_evaluated_on_though_there_is_a_validation_split(with_val: Path) -> None:
    choices: list[dict[str, Any]] = [{"split": "train+val"}, {"val_fraction": 0.2}]
    for options in choices:
        plan = planned(with_val, **options)
        assert plan.held_out is not None
        dataset = dataset_for(None, with_val, held_out=plan.held_out)
        assert dataset.file_names == plan.held_out.files
        if plan.dataset.split == "train":
            assert dataset.notes[-1].endswith("evaluates on all 12 images of it, split=val (--split) on that split")
        known = partial(trained_on_warning, held_out=plan.held_out, trained=plan.trained_images, model="runs/a")
        assert not known(dataset, "")
        trained = 12 - sum(not name.startswith("val/") for name in plan.held_out.files)
        [warning] = known(dataset_for(None, with_val, "train"), "train")
        assert f"runs/a was trained on {trained} of the 12 images of train" in warning
        assert warning.endswith("Leave split (--split) out to evaluate on the images that the run held out")


def renamed(data: Path, folder: Path, name: str) -> Path:
    """A copy of a data set with other names of its images and one annotation file; `name` has {} for the old stem."""
    tables = json.loads((data / "annotations" / "instances_train.json").read_text())
    (folder / "images").mkdir(parents=True)
    for image in tables["images"]:
        new = name.format(Path(image["file_name"]).stem)
        shutil.copy(data / "train" / image["file_name"], folder / "images" / new)
        image["file_name"] = new
    (folder / "labels.json").write_text(json.dumps(tables))
    return folder


def test_held_out_images_are_found_in_another_export(undivided: Path, tmp_path: Path) -> None:
    held_out = planned(undivided).held_out
    assert held_out is not None
    stems = {Path(name).stem for name in held_out.files}
    for folder, name in (("suffix", "{}.jpg"), ("names", "{}_png.rf.0123.png")):
        dataset = dataset_for(None, renamed(undivided, tmp_path / folder, name), held_out=held_out)
        assert {Path(one).name for one in dataset.file_names} == {name.format(stem) for stem in stems}
    unknown = replace(held_out, contents=())
    dataset = dataset_for(None, tmp_path / "names", held_out=unknown)
    assert len(dataset) == 12
    [warning] = trained_on_warning(dataset, "", held_out=unknown)
    assert warning.startswith("none of 2 images that the run held out from training are in")


def test_held_out_images_are_found_in_any_split_of_another_export(undivided: Path, tmp_path: Path) -> None:
    plan = planned(undivided)
    assert plan.held_out is not None
    photos = sorted((undivided / "train").iterdir())
    held = [photo for photo in photos if photo.name in plan.held_out.files]
    trained = [photo for photo in photos if photo not in held]

    def exported(val: list[Path]) -> Path:
        """The photos in YOLO's layout, those of `val` in its validation split."""
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for photo in photos:
            split = "val" if photo in val else "train"
            for kind in ("images", "labels"):
                (folder / kind / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(photo, folder / "images" / split)
            (folder / "labels" / split / f"{photo.stem}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
        (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [square, disc]\n")
        return folder

    warned = partial(trained_on_warning, held_out=plan.held_out, trained=plan.trained_images)
    for val, name in ((trained[:2], "train"), ([trained[0], held[0]], "train+val")):
        dataset = dataset_for(None, exported(val), held_out=plan.held_out)
        assert dataset.split == f"{name} (held out)"
        assert {Path(file).name for file in dataset.file_names} == set(plan.held_out.files)
        assert not warned(dataset, "")
    other = replace(plan.held_out, files=("x.png",), contents=())
    [warning] = warned(dataset_for(None, exported(trained[:2]), held_out=other), "")
    assert "the model was trained on all 2 images of val" in warning
    assert warning.endswith("Evaluate on images that it was not trained on")


def test_each_validation_set_is_evaluated(several: Path, tmp_path: Path) -> None:
    run = rcnn.train(
        "mask_rcnn_compact",
        several,
        tmp_path / "run",
        overrides=BRIEF,
        val_split=["val", "val_night"],
        log=lambda line: None,
    )
    [line] = [line for line in read_log(run.folder / "log.jsonl") if "bbox_AP" in line]
    assert {"segm_AP", "val_night/bbox_AP", "val_night/segm_AP50"} <= line.keys()
    assert json.loads((run.folder / "config.json").read_text())["splits"] == ["train", "val", "val_night"]
    resumed = planned(several, ("train.steps=2",), output=run.folder, resume=True)
    assert [one.split for one in resumed.validations] == ["val", "val_night"]
    plan = planned(several, val_splits=("val_night", "train"))
    text = "evaluated on 1 image with 2 objects (val_night) and 2 images with 4 objects (train)"
    assert text in "\n".join(describe_start(plan))


def test_data_sets_from_python(several: Path, undivided: Path) -> None:
    training, validation = rcnn.open_dataset(several, "train"), rcnn.open_dataset(several, "val")
    plan = planned(training, validation=validation)
    assert (plan.dataset, plan.validations) == (training, (validation,))
    assert (plan.record()["data"], plan.record()["dataset_given"]) == (str(several), True)
    assert "dataset_given" not in planned(several).record()
    assert planned(training).validations == ()
    assert any("pass a data set as validation=)" in line for line in describe_start(planned(training)))
    assert len(planned(rcnn.open_dataset(undivided, "train")).validations[0]) == 2
    other = rcnn.open_dataset(several, "val", classes=["disc", "square"])
    with pytest.raises(ValueError, match=r"has the classes disc, square; expected square, disc in this order"):
        planned(training, validation=other)


def test_a_validation_loss_of_masks_needs_outlines(several: Path, tmp_path: Path) -> None:
    data = shutil.copytree(several, tmp_path / "data")
    file = data / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    for annotation in tables["annotations"]:
        del annotation["segmentation"]
    file.write_text(json.dumps(tables))
    assert planned(data, val_splits=("val",)).validations
    with pytest.raises(ValueError, match=r"train\.validation_loss=true: .*instances_val\.json has boxes without outl"):
        planned(data, (*BRIEF, "train.validation_loss=true"), val_splits=("val",))


def test_images_without_objects_can_be_left_out_of_training(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path, {"train": 3}, size=(48, 64))
    file = data / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    tables["annotations"] = [one for one in tables["annotations"] if one["image_id"] != 2]
    file.write_text(json.dumps(tables))
    assert planned(data).dataset.image_ids == (1, 2, 3)
    assert planned(data, (*BRIEF, "train.filter_empty=true")).dataset.image_ids == (1, 3)
    file.write_text(json.dumps(tables | {"annotations": []}))
    with pytest.raises(ValueError, match=r"train.filter_empty=true: no image of .* has an object to train on"):
        planned(data, (*BRIEF, "train.filter_empty=true"), allow_empty=True)


def test_the_objects_of_each_class_are_counted() -> None:
    assert list(class_lines({"cat": 2, "dog": 5, "emu": 0})) == [
        "objects per class: dog 5, cat 2",
        "warning: no objects of emu to train on",
    ]
    [line] = class_lines({f"c{n}": 1 for n in range(103)})
    assert line.endswith("c99 1 and 3 others")


def test_reading_many_images_is_reported(undivided: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rcnn.training.run_data.REPORT_EVERY", 0.0)
    lines: list[str] = []
    plan_training(RunRequest(model="mask_rcnn_compact", data=undivided, overrides=BRIEF, device="cpu"), lines.append)
    assert lines[-1] == "choosing validation images: 12 of 12 images read"


def test_validation_images_that_are_trained_on_are_reported(several: Path) -> None:
    plan = planned(several, split="train+val", val_splits=("val", "val_night"))
    [warning] = [line for line in plan.warnings if "also in the training split" in line]
    assert warning.startswith("all 2 images of val are also in the training split train+val, so its metrics")
    assert not any("also in the training split" in line for line in planned(several).warnings)


def test_copies_of_training_images_with_other_names_are_reported(several: Path, tmp_path: Path) -> None:
    data = shutil.copytree(several, tmp_path / "data")
    shutil.copy(data / "train" / "train_1.png", data / "val" / "val_2.png")
    [warning] = [line for line in planned(data).warnings if "also in the training split" in line]
    assert warning.startswith("1 of the 2 images of val is also in the training split train, so its metrics")


def test_files_that_differ_only_near_their_start_are_not_copies(several: Path, tmp_path: Path) -> None:
    data = shutil.copytree(several, tmp_path / "data")
    for split, first in (("train", 1), ("val", 2)):
        with Image.open(data / split / f"{split}_1.png") as image:
            pixels = np.full((image.height, image.width, 3), 30, np.uint8)
        pixels[-1, 0] = first  # BMP files start with the last row
        Image.fromarray(pixels).save(data / split / f"{split}_1.png", "BMP")
    assert not [line for line in planned(data).warnings if "also in the training split" in line]
    shutil.copy(data / "train" / "train_1.png", data / "val" / "val_1.png")
    assert [line for line in planned(data).warnings if "also in the training split" in line]


def test_a_fault_is_one_warning_though_some_images_are_held_out(undivided: Path, tmp_path: Path) -> None:
    data = shutil.copytree(undivided, tmp_path / "data")
    file = data / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    tables["images"][0]["file_name"] = f"elsewhere/{tables['images'][0]['file_name']}"
    file.write_text(json.dumps(tables))
    plan = planned(data)
    assert plan.held_out is not None
    assert len([line for line in plan.warnings if "file_name" in line or "folder" in line]) == 1


def test_images_that_cannot_be_read_are_left_out(undivided: Path, tmp_path: Path) -> None:
    data = shutil.copytree(undivided, tmp_path / "data")
    (data / "train" / "train_3.png").write_bytes(b"")
    Image.new("RGB", (60, 48)).save(data / "train" / "train_5.png")
    plan = planned(data)
    [validation] = plan.validations
    left = {1, 2, 4, *range(6, 13)}
    assert {*plan.dataset.image_ids, *validation.image_ids} == left
    assert len(plan.dataset) + len(validation) == 10
    file = data / "annotations" / "instances_train.json"
    lines = [line for line in plan.warnings if "not trained on" in line]
    assert len(lines) == 2
    first = data / "train" / "train_3.png"
    assert lines[0].startswith(f"{file}: 1 image has a file that cannot be read, e.g. {first} is empty")
    assert lines[0].endswith("(id 3): not trained on")
    assert lines[1].startswith(f"{file}: 1 image has another size than in the annotations, e.g. ")
    with pytest.raises(ValueError, match=r"refused by strict=True .*\n.*train_3\.png is empty"):
        planned(data, strict=True)
    run = rcnn.train("mask_rcnn_compact", data, tmp_path / "run", overrides=BRIEF, log=lambda line: None)
    assert json.loads((run.folder / "config.json").read_text())["left_out"] == [3, 5]
    shutil.copy(undivided / "train" / "train_3.png", data / "train" / "train_3.png")  # repaired
    (data / "train" / f"train_{plan.dataset.image_ids[0]}.png").write_bytes(b"")  # damaged
    resumed = planned(data, ("train.steps=2",), output=run.folder, resume=True)
    assert resumed.dataset.image_ids == plan.dataset.image_ids


def test_a_set_without_images_that_can_be_read_is_refused(several: Path, tmp_path: Path) -> None:
    data = shutil.copytree(several, tmp_path / "data")
    file = data / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    tables["annotations"] = [one for one in tables["annotations"] if one["image_id"] != 2]
    file.write_text(json.dumps(tables))
    (data / "train" / "train_1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"the images that can be read have no objects to train on\n.*train_1\.png is"):
        planned(data)
    assert len(planned(data, allow_empty=True).dataset) == 1
    (data / "train" / "train_2.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 2 images can be used\n.*: 2 images have a file that cannot"):
        planned(data, allow_empty=True)
