"""train.batch_size=auto: the number chosen against the memory that steps take; its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from typing_extensions import override

from rcnn.cli.train import _outcome_lines
from rcnn.data import open_dataset
from rcnn.data.loading import numbered_batches
from rcnn.data.messages import counted
from rcnn.preprocess import InputConfig
from rcnn.runtime import memory
from rcnn.runtime.memory import free_memory, peak_memory
from rcnn.runtime.processes import Processes
from rcnn.training import batch_size
from rcnn.training.batch_size import BatchSize, chosen_batch_size, largest_fitting, with_batch_size
from rcnn.training.describe import describe_start
from rcnn.training.plan import RunPlan, plan_training
from rcnn.training.request import RunRequest
from rcnn.training.saver import Outcome
from rcnn.training.settings import TrainConfig, without_auto
from rcnn.weights.files import WEIGHTS_FILE
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training.process_runs import in_processes
from tests.unit.training.runs import run

WORDS = (*TINY_MODEL, "train.batch_size=auto", "train.steps=1", "train.workers=0", "train.warmup_steps=0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 12}, size=(192, 256))


def plan_of(data: Path, *words: str) -> RunPlan:
    request = RunRequest(model="mask_rcnn_compact", data=data, overrides=(*WORDS, *words), device="cpu")
    return plan_training(request, log=lambda line: None)


def out_of_memory_above(most: int) -> Callable[[int], None]:
    def step(images: int) -> None:
        if images > most:
            raise torch.OutOfMemoryError("CUDA out of memory")

    return step


@pytest.mark.parametrize("most", [1, 2, 7, 64])
def test_trying_finds_the_largest_number_that_fits(most: int) -> None:
    for fitting in range(most + 3):
        found, tried = largest_fitting(out_of_memory_above(fitting), most)
        assert found == min(fitting, most)
        assert len(tried) == len(set(tried)) <= 12
        assert max(tried) <= most


def test_a_cpu_without_room_for_one_image_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Step:
        exchanged = 0

        def __call__(self, images: int) -> None: ...

    def peak(step: object) -> int:
        return 9 * 10**9

    monkeypatch.setattr(batch_size, "held_memory", lambda: 0)
    monkeypatch.setattr(batch_size, "peak_memory", peak)
    step = cast("Any", Step())
    monkeypatch.setattr(batch_size, "free_memory", lambda: 8 * 10**9)
    with pytest.raises(ValueError, match=r"one image takes 9\.00 GB, but 8\.00 GB are free for this process: reduce"):
        batch_size._on_cpu(step, 1, "the 1 images allow no more")
    monkeypatch.setattr(batch_size, "free_memory", lambda: 10 * 10**9)  # it fits, without a reserve
    assert batch_size._on_cpu(step, 4, "").images == 1


def test_other_errors_of_a_trial_are_raised() -> None:
    def step(images: int) -> None:
        raise RuntimeError("the sizes do not match")

    with pytest.raises(RuntimeError, match="do not match"):
        largest_fitting(step, 4)


def test_the_last_batch_size_counts() -> None:
    auto, four = "train.batch_size=auto", "train.batch_size=4"
    assert without_auto(["a=1", auto]) == (["a=1"], True)
    assert without_auto([auto, four]) == ([four], False)
    assert without_auto([four, " train.batch_size = auto"]) == ([four], True)
    assert without_auto(["box.score_threshold=auto"]) == (["box.score_threshold=auto"], False)


def test_the_largest_batch_has_the_most_objects_and_the_largest_shape(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "data", {"wide": 1, "tall": 1}, size=(40, 80))
    annotations = json.loads((root / "annotations" / "instances_tall.json").read_text())
    with_more = write_tiny_coco(tmp_path / "more", {"train": 1}, size=(80, 40), objects=3)
    path = with_more / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    (with_more / "train" / "tall_1.png").write_bytes((root / "tall" / "tall_1.png").read_bytes())
    content["images"].append(annotations["images"][0] | {"id": 7})
    content["annotations"] += [one | {"id": 90 + one["id"], "image_id": 7} for one in annotations["annotations"]]
    path.write_text(json.dumps(content))
    size = InputConfig(min_size=64, max_size=128, divisor=32)
    batches = numbered_batches(open_dataset(with_more, "train"), size, TrainConfig(batch_size=1))
    batch = batches.largest(2)
    assert batch.images.pixels.shape == (2, 3, 128, 128)  # 128 x 64 and 64 x 128
    assert batch.image_ids == (1, 1)
    assert batch.targets.valid.sum(1).tolist() == [3, 3]


def predicted_and_measured(processes: Processes, data: Path) -> dict[str, Any]:
    """The choice with room for about 5 images, and the memory of a step with that many."""
    plan, before = plan_of(data, "input.min_size=384", "input.max_size=512"), memory.held_memory()
    batch_size.free_memory = lambda: 500_000_000  # type: ignore[assignment]
    chosen = chosen_batch_size(plan)
    step = batch_size._Step(plan)
    step(1)
    return {
        "images": chosen.images,
        "reason": chosen.reason,
        "measured": peak_memory(partial(step, chosen.images)) - before,
    }


@pytest.mark.skipif(not memory.measures_peaks(), reason="needs Linux")
def test_on_a_cpu_the_number_follows_from_the_free_memory(data: Path, tmp_path: Path) -> None:
    [found] = in_processes(1, tmp_path, partial(predicted_and_measured, data=data))
    assert 1 < found["images"] < 10, found
    assert 0.5 < found["measured"] / 375e6 < 1.3, found


@pytest.mark.skipif(not memory.measures_peaks(), reason="needs Linux")
def test_a_run_records_the_number_and_keeps_it(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_size, "MOST", 2)
    lines: list[str] = []
    run("mask_rcnn_compact", data, tmp_path / "run", WORDS, splits=("train", "none"), lines=lines)
    assert any(
        line.startswith("train.batch_size=auto: 2 images per process (2 is the most that is tried") for line in lines
    )
    assert any(line.startswith("learning rate 0.0005 = 0.002 x 2 images per step / 8") for line in lines)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["batch_size"] == 2
    monkeypatch.setattr(batch_size, "MOST", 3)
    more = ("train.batch_size=auto", "train.steps=2")
    run("mask_rcnn_compact", data, tmp_path / "run", more, splits=("train", "none"), resume=True, lines=lines)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["train"]["batch_size"] == 2
    assert sum("train.batch_size=auto" in line for line in lines) == 1


class Smallest(Processes):
    """Two processes, seen from the first; the memory of the other one has room for two images."""

    @override
    def most(self, *values: float) -> list[float]:
        return [max(value, -2.0) for value in values]


def test_the_process_with_the_least_memory_decides(data: Path) -> None:
    plan = plan_of(data)
    for images, expected in ((5, 2), (1, 1)):
        own = BatchSize(images=images, reason="a step takes 1 GB")
        chosen, line = with_batch_size(plan, own, Smallest(count=2))
        assert chosen.settings.batch_size == expected
        assert f"auto: {counted(expected, 'image')} per process (a step takes 1 GB" in line
        assert ("; another process allows 2)" in line) == (images > expected)


def test_the_free_memory_is_that_of_a_container_if_it_is_less(tmp_path: Path) -> None:
    assert 2**20 < free_memory() < 2**50
    assert memory._free_in_container(tmp_path) == []
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 5\ninactive_file 200\nactive_file 9\n")
    assert memory._free_in_container(tmp_path) == [500]
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._free_in_container(tmp_path) == []


def test_a_batch_size_that_is_neither_a_number_nor_auto_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.batch_size: expected a number of images, or auto, got 'automatic'"):
        without_auto(["train.batch_size=automatic"])
    assert without_auto(["train.batch_size=8"]) == (["train.batch_size=8"], False)


def test_the_warm_up_follows_the_number_of_steps(data: Path) -> None:
    """12 images x 60 epochs: 90 steps of 8 with a warm-up of 20, or 60 of 12 with one of 12."""
    words = [*TINY_MODEL, "train.batch_size=auto", "train.epochs=60", "train.workers=0"]

    def chosen(*more: str) -> RunPlan:
        request = RunRequest(model="mask_rcnn_compact", data=data, overrides=(*words, *more), device="cpu")
        plan = plan_training(replace(request, val_splits=("none",)), log=lambda line: None)
        assert not any("warmup_steps" in line for line in plan.warnings)
        return with_batch_size(plan, BatchSize(images=12, reason=""), Processes())[0]

    plan = chosen()
    assert (plan.settings.steps, plan.settings.warmup_steps) == (60, 12)
    lines = list(describe_start(plan))
    assert "chosen from the data: train.warmup_steps=12 (20% of the steps)" in lines
    plan = chosen("train.warmup_steps=70")
    assert (plan.settings.steps, plan.settings.warmup_steps) == (60, 70)
    assert any("train.warmup_steps=70 is not less than train.steps=60" in line for line in plan.warnings)


def test_a_run_of_all_steps_was_not_stopped_early(data: Path, tmp_path: Path) -> None:
    """The plan of the command has the number of steps before the batch size was chosen."""
    plan = plan_of(data, "train.steps=144")
    outcome = Outcome(output=data, step=12, steps=12, finished=True, best=None, best_metric="", metrics=None)
    assert list(_outcome_lines(outcome, plan, data)) == [f"finished after 12 steps; the run is in {data}"]
    (tmp_path / "last").mkdir()
    (tmp_path / "last" / WEIGHTS_FILE).touch()
    [early] = _outcome_lines(replace(outcome, step=9), plan, data)
    assert early.startswith("stopped early (train.patience=0) after 9 steps")
    by_limit = replace(outcome, output=tmp_path, step=9, finished=False, stopped_by="train.time_limit")
    [stopped, *_] = _outcome_lines(by_limit, plan, data)
    assert stopped.startswith(
        "stopped by train.time_limit after 9 of 12 steps; to continue: rcnn train mask_rcnn_compact"
    )
