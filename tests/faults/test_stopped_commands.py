"""Signals, kills, closed streams and folders in use: `rcnn predict`, `eval` and `convert` end in order.

Each command runs in a forked process, which sends itself the signal at a certain place.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from rcnn.data import images
from rcnn.evaluation import folder as evaluation_folder
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.outputs import PARTIAL
from rcnn.weights.checkpoint import load_checkpoint, save_checkpoint
from tests.faults.forked_commands import SIGNALS, command, left_in, signal_at
from tests.tiny_data import TINY_MODEL, write_tiny_coco

PREDICTOR = "rcnn.predictor:Predictor"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three validation images."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"val": 3}, size=(64, 96))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of random weights."""
    torch.manual_seed(0)
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    detector = build_detector(override(model_config("mask_rcnn_compact"), words))
    folder = tmp_path_factory.mktemp("model") / "m"
    save_checkpoint(folder, detector, classes=("square", "disc"))
    return folder


@pytest.mark.parametrize("number", [*SIGNALS, signal.SIGKILL])
def test_predict_keeps_what_is_done_and_can_run_again(data: Path, model: Path, tmp_path: Path, number: int) -> None:
    output, words = tmp_path / "out", ("predict", model, data / "val", "--score", 0.02, "--device", "cpu")
    at_the_third = partial(signal_at, 2, PREDICTOR, "detect", number)  # the second one is being drawn meanwhile
    status, errors = command(output, *words, before=at_the_third)
    partial_file = output / PARTIAL
    assert len(partial_file.read_text().splitlines()) == 1
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert status == 128 + number
        name = signal.Signals(number).name
        assert errors == f"the results so far are in {partial_file}\nrcnn: stopped by {name}\n"
        assert not [name for name in left_in(output) if name.startswith(".rcnn-writing")]
    status, errors = command(output, *words)
    assert (status, errors) == (0, "")
    assert len(json.loads((output / "predictions.json").read_text())["images"]) == 3
    assert not partial_file.exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_eval_keeps_what_is_done_and_can_run_again(data: Path, model: Path, tmp_path: Path, number: int) -> None:
    output, words = (
        tmp_path / "out",
        ("eval", model, "--data", data, "--device", "cpu", "--pictures", 0, "--split", "val"),
    )
    status, errors = command(output, *words, before=partial(signal_at, 2, PREDICTOR, "detect", number))
    results = output / evaluation_folder.UNFINISHED
    assert results.exists()
    if number == signal.SIGTERM:
        assert status == 128 + number
        assert errors.splitlines()[-2:] == [
            f"`rcnn eval {output} --data {data} --split val` scores the images that are done",
            "rcnn: stopped by SIGTERM",
        ]
    else:
        assert status == -number
    assert command(tmp_path / "again", "eval", output, "--data", data)[0] == 0
    assert command(output, *words)[0] == 0
    assert json.loads((output / "metrics.json").read_text())["counts"]["images"] == 3


def block_at_the_second_image() -> None:
    """Reading that image blocks, and the process gets SIGINT meanwhile."""
    read_head = images._head

    def blocking(source: images.Source) -> bytes:
        if str(source).endswith("val_2.png"):
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
            time.sleep(60)
        return read_head(source)

    images._head = blocking


@pytest.mark.parametrize("name", ["eval", "predict", "predict --data", "data check"])
def test_the_first_interrupt_ends_a_command_that_waits_for_a_file(
    data: Path, model: Path, tmp_path: Path, name: str
) -> None:
    """As on a network disk that does not answer: reading the second image blocks, and Ctrl-C follows."""
    on_data = ("--data", data, "--device", "cpu")
    words: dict[str, tuple[object, ...]] = {
        "eval": ("eval", model, *on_data),
        "predict": ("predict", model, data / "val", "--device", "cpu"),
        "predict --data": ("predict", model, *on_data),
        "data check": ("data", "check", data),
    }

    start = time.monotonic()
    option = "--fix" if name == "data check" else "--output"
    status, errors = command(tmp_path / "out", *words[name], before=block_at_the_second_image, option=option)
    assert (status, errors.splitlines()[-1]) == (128 + signal.SIGINT, "rcnn: stopped by SIGINT")
    assert time.monotonic() - start < 30


@pytest.mark.parametrize("place", [0, 1])
def test_a_checkpoint_is_whole_after_a_kill_between_its_files(model: Path, tmp_path: Path, place: int) -> None:
    """The kill comes before the first or the second file is moved; the next command moves the rest."""
    earlier = load_checkpoint(model)
    later = {name: value + 1 for name, value in earlier.state.items()}
    save_checkpoint(tmp_path / "m", earlier.state, earlier.config, earlier.classes)
    child = os.fork()
    if child == 0:
        signal_at(place, "os", "replace", signal.SIGKILL)
        with suppress(BaseException):
            save_checkpoint(tmp_path / "m", later, earlier.config, ("ball", "box"))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    found = load_checkpoint(tmp_path / "m")
    assert found.classes == ("ball", "box")
    assert all(torch.equal(value, later[name]) for name, value in found.state.items())


def close_streams() -> None:
    """As the shell does with `<&- >&- 2>&-`."""
    for number in (0, 1, 2):
        os.close(number)
    sys.stdin = sys.stdout = sys.stderr = None  # type: ignore[assignment]


def test_closed_streams_change_nothing_but_what_is_printed(data: Path, model: Path, tmp_path: Path) -> None:
    """`rcnn predict ... >&- 2>&-`: what the caller closed is opened on nothing, or a file would get its number."""
    words, output = ("predict", model, data / "val", "--device", "cpu"), tmp_path / "out"
    assert command(output, *words, before=close_streams)[0] == 0
    assert len(json.loads((output / "predictions.json").read_text())["images"]) == 3
