"""`rcnn.plan`: what `rcnn train --dry-run` prints, from Python."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import rcnn
from rcnn.training.measure import Measurement
from rcnn.training.plan import RunPlan, plan_training
from rcnn.training.request import RunRequest
from rcnn.weights.catalogue.names import find_entry
from tests import command
from tests.tiny_data import TINY_MODEL, write_tiny_coco

WORDS = ("train.epochs=3", "train.batch_size=2", "train.workers=0", "train.warmup_steps=1", "train.lr=0.01")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5, "val": 2}, size=(48, 64))


def test_a_plan_prints_what_the_command_prints_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY_MODEL, *WORDS]
    plan = rcnn.plan("mask_rcnn_compact", data, overrides=words, device="cpu")
    assert command.rcnn("train", "mask_rcnn_compact", "--data", data, "--device", "cpu", "--dry-run", *words) == 0
    printed = capsys.readouterr().out
    free = re.compile(r"[\d,.]+ MB free")  # the space on the disk changes meanwhile
    assert free.sub("", printed) == free.sub("", str(plan)) + "\nnothing was written (--dry-run)\n"
    assert repr(plan) == str(plan)  # what a notebook shows
    assert plan.values["train.steps"] == 8  # 3 epochs of 5 images, 2 per step, rounded up
    assert plan.values["fpn.channels"] == 16
    assert plan.config.num_classes == plan.values["num_classes"] == 2
    assert (plan.reasons["train.lr"], plan.settings.lr) == ("given", 0.01)
    assert plan.reasons["split"] == "its name starts with 'train'"
    assert plan.warnings == ()
    assert not list(tmp_path.iterdir())


def test_a_plan_for_several_devices_is_not_measured(data: Path) -> None:
    plan = rcnn.plan("mask_rcnn_compact", data, overrides=[*TINY_MODEL, *WORDS], device="cpu", devices=2)
    assert plan.values["train.steps"] == 4  # two processes with two images each
    with pytest.raises(ValueError, match="only a plan for one process can be measured, and this one is for 2"):
        plan.measure(1)
    with pytest.raises(ValueError, match="devices=0; expected 1 or more processes"):
        rcnn.plan("mask_rcnn_compact", data, devices=0)
    with pytest.raises(ValueError, match=r"give a model or recipe=NAME, and data"):
        rcnn.plan(data=data)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('train.lr_factors={"nothing.*": 2}', r"train\.lr_factors: no parameter of the model matches 'nothing\.\*'"),
        ('train.weight_decays={"*.bias": 0, "x": 1}', r"train\.weight_decays: no parameter of the model matches 'x'"),
        ("train.layer_decay=0.7", r"train\.layer_decay works with ViT and ConvNeXt backbones only"),
    ],
)
def test_settings_without_a_parameter_are_refused_by_the_plan(
    data: Path, tmp_path: Path, setting: str, message: str
) -> None:
    """Not only when the plan is printed, or after the folder of a run was made."""
    words = [*TINY_MODEL, *WORDS, setting]
    with pytest.raises(ValueError, match=message):
        rcnn.plan("mask_rcnn_compact", data, overrides=words, device="cpu")
    with pytest.raises(ValueError, match=message):
        rcnn.train("mask_rcnn_compact", data, tmp_path / "run", overrides=words, device="cpu")
    assert not (tmp_path / "run").exists()


def test_an_automatic_batch_size_is_auto_in_the_values(data: Path) -> None:
    words = [*TINY_MODEL, "train.batch_size=auto", "train.workers=0"]
    assert rcnn.plan("mask_rcnn_compact", data, overrides=words, device="cpu").values["train.batch_size"] == "auto"


def test_steps_are_measured_with_the_weights_of_the_run(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that was made without its weights is made again with them."""
    plan = rcnn.plan("mask_rcnn_compact", data, overrides=[*TINY_MODEL, *WORDS], device="cpu")
    measured = plan.measure(2)
    assert (measured.steps, measured.images, measured.run) == (2, 2, 8)
    assert measured.seconds > measured.waiting > 0
    assert str(measured).startswith(f"measured 2 steps of 2 images: {measured.seconds:.2f} s per step (")
    with pytest.raises(ValueError, match="the number of steps to measure is 0; expected 1 or more"):
        plan.measure(0)
    full = plan_training(RunRequest(model="mask_rcnn_compact", data=data, overrides=(*TINY_MODEL, *WORDS)), str)
    absent = replace(full, download=find_entry("mask_rcnn_r50_fpn@torchvision"))
    seen = list[RunPlan]()

    def note(plan: RunPlan, steps: int) -> Measurement:
        seen.append(plan)
        return measured

    monkeypatch.setattr("rcnn.training.training_plan.measure", note)
    assert rcnn.TrainingPlan(absent, complete=lambda: full).measure(3) is measured
    assert seen == [full]


def test_recipes_are_found_by_a_part_of_their_names() -> None:
    [dena] = rcnn.list_recipes("dena")
    assert (dena.name, dena.mask) == ("dena/R50-C4", 28.7)
    assert "settings" not in repr(dena)
    assert [recipe.name for recipe in rcnn.list_recipes("mask-faster-rcnn/res101")] == ["mask-faster-rcnn/res101"]
    assert len(rcnn.list_recipes()) > len(rcnn.list_recipes("tensorpack/")) == 13
    with pytest.raises(ValueError, match="no recipe named 'R50-FPN-1y'; did you mean"):
        rcnn.list_recipes("R50-FPN-1y")


def test_a_run_is_not_written_among_its_data(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = partial(rcnn.plan, "mask_rcnn_compact", overrides=[*TINY_MODEL, *WORDS], device="cpu", log=lambda line: None)
    monkeypatch.chdir(data)
    for given, output in (
        (data, data),
        (Path(), "../" + data.name),
        (data / "annotations" / "instances_train.json", data / "annotations"),
    ):
        with pytest.raises(ValueError, match=r"is the folder of the data set, and rcnn would .*, e\.g\. runs"):
            plan(given, output)
    below = plan(Path(), "runs/a").warnings
    assert below == (
        "runs/a is inside the folder of the data set, .: rcnn does not read its own files as data, but other programs "
        "may. To keep them apart, choose an output (--output) outside it",
    )
    file = Path("annotations", "instances_train.json").rename("train.json")  # beside the folder of all runs
    assert plan(file, "runs/a", images="train").warnings == ()
    assert (
        plan(file, "train/a", images="train")
        .warnings[0]
        .startswith(f"train/a is inside the folder of the data set, {data / 'train'}: ")
    )
    with pytest.raises(ValueError, match=r"^train is the folder of the images, and rcnn would put its files"):
        plan(file, "train", images="train")
    for output in ("train", data / "train"):  # where they are found
        with pytest.raises(ValueError, match="train is the folder of the images"):
            plan(file, output)
    assert any(line.startswith("train/a is inside the folder of") for line in plan(file, "train/a").warnings)
    assert not any("inside" in line for line in plan(file, "runs/a").warnings)
    file.rename(data / "annotations" / "instances_train.json")
    assert plan(data, tmp_path / "run").warnings == ()
    assert plan(rcnn.open_dataset(data, "train"), data / "run", validation=rcnn.open_dataset(data, "val")).warnings
    assert not (data / "runs").exists()
