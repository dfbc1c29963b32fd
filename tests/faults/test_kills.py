"""A run that is killed at any file operation, or around an evaluation, and resumed equals an uninterrupted run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from rcnn.training.state import read_state
from tests.faults.killed_runs import TinyRun, contents, differences, in_child, run_and_kill
from tests.tiny_data import write_tiny_coco

SAMPLE = 6  # places of `make test`, spread over the run; `pytest -m exhaustive` has all


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three training images and one validation image."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 3, "val": 1}, size=(64, 96))


def count_places(data: Path, folder: Path) -> int:
    """The file operations of an uninterrupted run, which is left in `folder`/run."""
    output = folder / "run"
    assert in_child(partial(run_and_kill, TinyRun(data, output), -1, output)) == 0
    return int((folder / "places").read_text())


@pytest.fixture(scope="module")
def uninterrupted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, object], int]:
    """The contents of an uninterrupted run, and the number of its places."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    places = count_places(data, folder)
    assert places > 60
    return contents(folder / "run"), places


def saved_step(output: Path) -> int:
    """The step of the checkpoint last/; 0 without one."""
    return int(read_state(output / "last")["step"]) if (output / "last").exists() else 0


def differences_after_a_kill(data: Path, output: Path, place: int, expected: dict[str, object]) -> list[str]:
    """Kill a run at `place` and resume it: where its folder differs from `expected`."""
    run = TinyRun(data, output)
    assert in_child(partial(run_and_kill, run, place, output)) == -9
    saved = saved_step(output)
    assert in_child(partial(run, resume=True)) == 0
    assert run.resumed_step() >= saved, f"killed at place {place}: started again instead of continuing from last/"
    return differences(expected, contents(output))


@pytest.mark.parametrize("part", range(SAMPLE))
def test_a_killed_run_resumes_to_the_same(
    data: Path, tmp_path: Path, uninterrupted: tuple[dict[str, object], int], part: int
) -> None:
    expected, places = uninterrupted
    place = part * (places - 1) // (SAMPLE - 1)
    assert differences_after_a_kill(data, tmp_path / "run", place, expected) == [], f"killed at place {place}"


@pytest.mark.exhaustive
def test_a_run_killed_at_each_place_resumes_to_the_same(
    data: Path, tmp_path: Path, uninterrupted: tuple[dict[str, object], int]
) -> None:
    expected, places = uninterrupted
    for place in range(places):
        output = tmp_path / str(place) / "run"
        assert differences_after_a_kill(data, output, place, expected) == [], f"killed at place {place}"


def test_a_resumed_run_that_is_killed_again_resumes_to_the_same(
    data: Path, tmp_path: Path, uninterrupted: tuple[dict[str, object], int]
) -> None:
    """The recovery itself is killed, at its first file operations."""
    expected, places = uninterrupted
    output = tmp_path / "run"
    run = TinyRun(data, output)
    assert in_child(partial(run_and_kill, run, places // 2, output)) == -9
    saved = saved_step(output)
    assert saved > 0
    for place in (0, 3, 6):
        assert in_child(partial(run_and_kill, partial(run, resume=True), place, output)) == -9
    assert in_child(partial(run, resume=True)) == 0
    assert run.resumed_step() >= saved
    assert not differences(expected, contents(output))


def test_differences_between_runs_are_found() -> None:
    one = {"last": {"weight": torch.ones(2)}, "log": [{"step": 1}, {"step": 2}]}
    assert differences(one, {"last": {"weight": torch.ones(2)}, "log": [{"step": 1}, {"step": 2}]}) == []
    assert differences(one, {"last": {"weight": torch.zeros(2)}, "log": one["log"]}) == [".last.weight"]
    assert differences(one, {"last": {}, "log": one["log"]}) == [".last.weight"]
    assert differences(one, one | {"log": [{"step": 1}, {"step": 3}]}) == [".log[1].step: 2 / 3"]
    assert len(differences(one, one | {"log": [{"step": 1}]})) == 1
    assert differences(one, one | {"best": {}}) == [".best"]
