"""A run on disk: the state comes back bit for bit, folders are replaced whole, the log survives a crash."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from rcnn.training.log import RunLog, read_log
from rcnn.training.run import write_json
from rcnn.training.state import TrainingState, read_state, recover_folder, replace_folder, write_state


def steps(layer: nn.Linear, optimizer: torch.optim.Optimizer, count: int) -> None:
    """Some steps that draw from both global generators."""
    for _ in range(count):
        optimizer.zero_grad()
        noise = float(np.random.random())  # noqa: NPY002 - the global generator is what is tested
        (layer(torch.randn(5, 3)) + noise).square().sum().backward()
        optimizer.step()


def fresh() -> tuple[nn.Linear, torch.optim.Optimizer]:
    """The same layer each time, with momentum."""
    torch.manual_seed(3)
    layer = nn.Linear(3, 2)
    return layer, torch.optim.SGD(layer.parameters(), lr=0.01, momentum=0.9)


def test_a_state_that_was_kept_goes_on_bit_for_bit(tmp_path: Path) -> None:
    layer, optimizer = fresh()
    np.random.seed(1)  # noqa: NPY002
    steps(layer, optimizer, 4)
    write_state(tmp_path, TrainingState.capture(step=4, optimizer=optimizer, best=0.25))
    weights = {name: value.clone() for name, value in layer.state_dict().items()}
    steps(layer, optimizer, 3)

    other, its_optimizer = fresh()
    other.load_state_dict(weights)
    torch.randn(17)
    np.random.seed(99)  # noqa: NPY002
    state = read_state(tmp_path)
    state.restore(its_optimizer)
    assert (state.step, state.best) == (4, 0.25)
    steps(other, its_optimizer, 3)
    for name, value in layer.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_settings_changed_on_resuming_count(tmp_path: Path) -> None:
    layer, optimizer = fresh()
    steps(layer, optimizer, 2)
    write_state(tmp_path, TrainingState.capture(step=2, optimizer=optimizer, best=None))
    other = torch.optim.SGD(layer.parameters(), lr=0.5, momentum=0.7, weight_decay=0.1)
    read_state(tmp_path).restore(other)
    group = other.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.5, 0.7, 0.1)
    for parameter in layer.parameters():
        assert torch.equal(other.state[parameter]["momentum_buffer"], optimizer.state[parameter]["momentum_buffer"])


class Hostile:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return open, ("hostile-was-run", "w")  # type: ignore[return-value]


def test_a_state_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"step": Hostile()}, tmp_path / "training.pt")
    with pytest.raises(ValueError, match=r"training\.pt cannot be read as a training state"):
        read_state(tmp_path)
    (tmp_path / "training.pt").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(ValueError, match=r"training\.pt cannot be read"):
        read_state(tmp_path)
    assert not (tmp_path / "hostile-was-run").exists()


def test_a_missing_or_truncated_state_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="start a run from it"):
        read_state(tmp_path)
    _, optimizer = fresh()
    write_state(tmp_path, TrainingState.capture(step=1, optimizer=optimizer, best=None))
    whole = (tmp_path / "training.pt").read_bytes()
    (tmp_path / "training.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"training\.pt cannot be read"):
        read_state(tmp_path)


def write_number(number: int):
    """What fills a folder with one file that holds `number`."""

    def write(folder: Path) -> None:
        folder.mkdir()
        (folder / "number").write_text(str(number))

    return write


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    for number in (1, 2):
        replace_folder(folder, write_number(number))
        assert (folder / "number").read_text() == str(number)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_write_that_fails_leaves_the_folder_that_was(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    replace_folder(folder, write_number(1))

    def breaks(new: Path) -> None:
        write_number(2)(new)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_folder(folder, breaks)
    assert (folder / "number").read_text() == "1"
    replace_folder(folder, write_number(3))
    assert (folder / "number").read_text() == "3"


def test_a_crash_between_the_two_moves_is_mended(tmp_path: Path) -> None:
    folder = tmp_path / "last"
    write_number(1)(tmp_path / "last.old")
    write_number(2)(tmp_path / "last.new")
    recover_folder(folder)
    assert (folder / "number").read_text() == "1"


def test_json_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_the_log_holds_each_line_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, steps=10) as log:
        log.write(step=0, loss=1.5, lr=0.1)
        assert [(line["step"], line["loss"], line["lr"]) for line in read_log(path)] == [(0, 1.5, 0.1)]
        assert read_log(path)[0]["seconds"] >= 0


def test_a_resumed_log_drops_what_will_come_again(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, steps=10) as log:
        for step in range(6):
            log.write(step=step, loss=float(step))
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # the process was killed here
    with RunLog(path, steps=10, first_step=4) as log:
        log.write(step=4, loss=40.0)
    assert [(line["step"], line["loss"]) for line in read_log(path)] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 40.0)]


def test_the_log_is_quiet_where_there_is_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "log.jsonl", steps=3) as log:
        log.advance(0)
        log.write(step=0, loss=1.0)
        log.say("step 1: [bold] stays as it is")
    out, err = capfd.readouterr()
    assert out == ""
    assert err == "step 1: [bold] stays as it is\n"
