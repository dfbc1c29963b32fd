"""`rcnn train --recipe`, `--schedule`, `--dry-run --measure`, and `rcnn models recipes`, from the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import recipes_table

from rcnn.runtime import memory
from rcnn.training import api, batch_size
from rcnn.training.chosen_start import choose_start
from rcnn.training.length import changed_by, with_length
from rcnn.training.plan import RunPlan, plan_training
from rcnn.training.recipes import RECIPES
from rcnn.training.request import RunRequest
from rcnn.training.schedule import milestone_steps
from rcnn.training.settings import TrainConfig
from tests.command import rcnn
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training import runs

BRIEF = ("train.batch_size=2", "train.workers=0", "train.warmup_steps=1")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five training images and two validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 5, "val": 2}, size=(64, 96))


def plan(data: Path, recipe: str, *words: str, model: str = "", devices: int = 1) -> RunPlan:
    request = RunRequest(model=model, recipe=recipe, data=data, overrides=words, weights="none", device="cpu")
    return plan_training(request, devices=devices)


def test_a_recipe_is_planned_for_the_processes_that_are_there(data: Path) -> None:
    one = plan(data, "detectron2/mask_rcnn_R_50_FPN_1x")
    assert (one.config.name, one.config.num_classes) == ("mask_rcnn_r50_fpn_caffe", 2)
    assert (one.settings.batch_size, one.settings.accumulate, one.settings.steps) == (2, 8, 90_000)
    assert one.reasons["train.lr"] == "recipe detectron2/mask_rcnn_R_50_FPN_1x"
    assert one.reasons["train.accumulate"].startswith("for the 16 images per step of recipe")
    assert one.about()["recipe"] == "detectron2/mask_rcnn_R_50_FPN_1x"
    assert any("it is 90,000 steps, about 288,000 epochs" in line for line in one.warnings)
    many = plan(data, "detectron2/mask_rcnn_R_50_FPN_1x", devices=16)
    assert (many.settings.accumulate, many.settings.steps, many.settings.scaled_lr(16)) == (1, 45_000, 0.04)


def test_what_is_typed_wins_over_the_recipe(data: Path) -> None:
    words = ("train.lr=0.5", "train.steps=7", "train.batch_size=4", "rpn.smooth_l1_beta=0.25", "input.max_size=900")
    typed = plan(data, "tensorpack/R50-FPN-1x", *words, model="mask_rcnn_r101_fpn")
    assert typed.config.name == "mask_rcnn_r101_fpn"
    assert (typed.config.rpn.smooth_l1_beta, typed.config.input.max_size) == (0.25, 900)
    assert typed.config.rpn.legacy.low_quality == "overruled"
    settings = typed.settings
    assert (settings.lr, settings.steps, settings.batch_size, settings.accumulate) == (0.5, 7, 4, 2)
    assert settings.schedule == ""
    assert {typed.reasons[f"train.{name}"] for name in ("lr", "steps", "batch_size")} == {"given"}


@pytest.mark.parametrize("length", ["train.steps=2700", "train.epochs=1"])
def test_another_length_keeps_the_fractions_of_the_schedule(data: Path, length: str) -> None:
    """Detectron2's 3x decays after 210,000 and 250,000 of 270,000 steps."""
    name = "detectron2/faster_rcnn_R_50_FPN_3x"
    planned = plan(data, name, length)
    assert planned.settings.milestones == pytest.approx((210 / 270, 250 / 270))
    assert planned.reasons["train.milestones"] == f"recipe {name}: fractions of its schedule, 3x"
    assert plan(data, name).reasons["train.milestones"] == "3x"
    other = plan(data, name, "train.schedule=1x")
    assert other.settings.milestones == pytest.approx((6 / 9, 8 / 9))
    assert other.reasons["train.milestones"] == "1x"
    assert plan(data, name, length, "train.milestones=[0.5]").reasons["train.milestones"] == "given"


def test_every_recipe_decays_at_the_same_fractions_in_a_run_of_another_length(data: Path) -> None:
    for name, recipe in RECIPES.items():
        whole = with_length(
            changed_by(TrainConfig(), recipe.training_settings), images=118_287, processes=1, given=set()
        )[0]
        for length in ("train.steps=9999", "train.epochs=0.5"):
            request = RunRequest(recipe=name, data=data, overrides=(length,), weights="none")
            start = choose_start(request, None, print, download=False)
            settings = with_length(start.settings, images=118_287, processes=1, given=start.given)[0]
            fractions = [step / whole.steps for step in milestone_steps(whole)]
            assert [step / settings.steps for step in milestone_steps(settings)] == pytest.approx(fractions, abs=1e-3)
            assert len(fractions) in (1, 2), name


def test_a_recipe_for_a_model_without_some_of_its_settings(data: Path) -> None:
    found = plan(data, "tensorpack/R50-FPN-1x", *TINY_MODEL, "train.steps=7", model="mask_rcnn_compact")
    assert found.config.rpn.legacy.low_quality == "overruled"
    assert found.reasons["rpn.legacy.low_quality"] == "recipe tensorpack/R50-FPN-1x"
    assert "backbone.padding" not in found.reasons
    [line] = [line for line in found.warnings if "are skipped" in line]
    assert "recipe tensorpack/R50-FPN-1x" in line
    assert "backbone.padding=align" in line
    assert "--weights" not in line  # they were typed


def test_a_typed_length_is_the_reason_that_the_schedule_of_the_recipe_is_not_set(data: Path) -> None:
    found = plan(data, "tensorpack/R50-FPN-1x", *TINY_MODEL, "train.epochs=2", model="mask_rcnn_compact")
    assert found.settings.schedule == ""
    assert found.reasons["train.schedule"] == "train.epochs is given"
    assert found.reasons["train.steps"].startswith("2 epochs of 5 images")


def test_the_steps_of_a_recipe_are_scaled(data: Path) -> None:
    planned = plan(data, "mask-faster-rcnn/res101", devices=8)
    assert (planned.settings.steps, planned.settings.scaled_lr(8)) == (156_250, pytest.approx(8e-3))
    assert planned.reasons["train.steps"] == "the images of 1250000 steps of 1"


def test_a_recipe_and_its_parameter_groups_are_shown(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "--recipe", "fcis/R101-VOC-random", "train.log_every=5", "--data", data, "--weights", "none"]
    assert rcnn(*words, "--dry-run") == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "recipe fcis/R101-VOC-random: mask AP50 (VOC) 66.0 on VOC 2012 val (SBD), trained on " in "\n".join(lines)
    assert "train.log_every 5 (given)" in lines
    assert "train.steps 55 (44 epochs of 5 images, 4 per step)" in lines
    evaluations = "train.evaluate_every 3 (recipe fcis/R101-VOC-random: every 2 epochs of 5 images, 4 per step)"
    assert evaluations in lines
    assert any(
        line.startswith("parameters: learning rate x 3, weight decay 0: 1 tensor (box_head.red") for line in lines
    )


def test_a_schedule_is_an_option(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "mask_rcnn_compact", "--data", data, "--dry-run", "--schedule", "2x", "train.batch_size=16"]
    assert rcnn(*words) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "train.steps 180000 (2x: 2.88 million images, 16 per step)" in lines
    assert rcnn(*words[:-2], "12x") == 2
    assert "train.schedule: expected one of" in capsys.readouterr().err


def test_a_dry_run_measures_time_and_memory(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "mask_rcnn_compact", "--data", data, "--device", "cpu", *TINY_MODEL, *BRIEF]
    assert rcnn(*words, "--dry-run", "--measure", "2") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("measured 2 steps of 2 images: ")
    assert "images/s" in last
    assert "peak memory" in last
    assert not list(tmp_path.iterdir())
    assert rcnn(*words, "--measure", "2") == 2
    assert "--measure is for --dry-run on one device" in capsys.readouterr().err


@pytest.mark.skipif(not memory.measures_peaks(), reason="needs Linux")
def test_the_batch_size_that_is_chosen_is_measured(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "MOST", 3)
    words = ["train", "mask_rcnn_compact", "--data", data, "--device", "cpu", *TINY_MODEL, *BRIEF[1:]]
    assert rcnn(*words, "train.batch_size=auto", "train.epochs=6", "--dry-run", "--measure", "1") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("measured 1 step of 3 images: ")
    assert "; 10 steps take about" in last  # 6 epochs of 5 images


def test_a_run_with_epochs_and_patterns_is_recorded_and_resumed(data: Path, tmp_path: Path) -> None:
    words = (*TINY_MODEL, *BRIEF, "train.epochs=1", 'train.weight_decays={"*.bias": 0}')
    outcome = runs.run("mask_rcnn_compact", data, tmp_path / "run", words)
    assert outcome.step == 2  # 5 images, 2 per step
    record = json.loads((tmp_path / "run/config.json").read_text(encoding="utf-8"))
    assert (record["train"]["epochs"], record["train"]["steps"]) == (1, 2)
    assert record["train"]["weight_decays"] == {"*.bias": 0}
    more = runs.run("mask_rcnn_compact", data, tmp_path / "run", ["train.epochs=1.6"], resume=True)
    assert more.step == 4
    with pytest.raises(ValueError, match=r"train\.weight_decays cannot change when a run is resumed"):
        runs.run("mask_rcnn_compact", data, tmp_path / "run", ["train.steps=5", "train.weight_decays={}"], resume=True)


def test_the_page_of_recipes_is_up_to_date() -> None:
    text = recipes_table.PAGE.read_text(encoding="utf-8")
    assert recipes_table.updated(text) == text, "run python benchmarks/recipes_table.py"
    tensorpack = text.split("### tensorpack\n")[1].split("\n### ")[0]
    first, second = re.findall(r"^- (.*?): (.*)$", tensorpack, flags=re.MULTILINE)  # what all have is said once
    assert first[0] == "All"
    assert first[1].startswith("training images are resized as uint8")
    assert second[0] == "`R101-FPN-9x-GN-CasAug-scratch`"
    assert second[1].startswith("scales of the backbone's norms start at 1")


def test_the_example_in_python_is_a_plan_of_the_recipe(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", recipes_table.PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    plans = list[RunPlan]()

    def only_plan(request: RunRequest, log: Callable[[str], object]) -> None:
        plans.append(plan_training(request, log))

    monkeypatch.setattr(api, "_train", only_plan)
    exec(code.replace('"coco"', repr(str(data))), {})  # noqa: S102  the page is ours
    [planned] = plans
    assert (planned.config.name, planned.settings.steps) == ("mask_rcnn_r50_fpn", 500)


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("models", "recipes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:-1]] == list(RECIPES)
    assert rcnn("models", "recipes", "tensorpack/R50-FPN-1x") == 0
    assert "8 V100" in capsys.readouterr().out
    assert rcnn("models", "recipes", "dena", "--json") == 0
    assert json.loads(capsys.readouterr().out)["dena/R50-C4"]["mask"] == 28.7
    assert rcnn("models", "recipes", "tensorpak/R50") == 2
    assert "did you mean tensorpack/R50" in capsys.readouterr().err
