"""The state of a run is restored bit for bit; the log survives a crash and damage."""

from __future__ import annotations

import errno
import io
import json
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn
from typing_extensions import Buffer, override

from rcnn.training.log import RunLog, read_log
from rcnn.training.settings import TrainConfig
from rcnn.training.state import COMPILE, TrainState, build_optimizer, random_state, read_state, save_values, write_state
from tests.compiled import FORWARD

SETTINGS = TrainConfig(lr=0.01, momentum=0.9, channels_last=False)


class Layer(nn.Linear):
    """A stand-in for a detector."""

    def __init__(self) -> None:
        super().__init__(3, 2)


def steps(state: TrainState, count: int) -> None:
    """Some steps that draw from all global generators."""
    for _ in range(count):
        state.optimizer.zero_grad()
        noise = float(np.random.random()) + random.random()  # noqa: NPY002 - the global generator is what is tested
        (state.detector(torch.randn(5, 3)) + noise).square().sum().backward()
        state.optimizer.step()
        state.step += 1


def fresh(settings: TrainConfig = SETTINGS) -> TrainState:
    """The same layer each time, with momentum."""
    torch.manual_seed(3)
    return TrainState.start(Layer(), settings)  # type: ignore[arg-type]


def test_a_restored_state_continues_bit_for_bit(tmp_path: Path) -> None:
    state = fresh()
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    steps(state, 4)
    state.best, state.evaluation_due = 0.25, True
    write_state(state.contents(), tmp_path)
    weights = {name: value.clone() for name, value in state.detector.state_dict().items()}
    steps(state, 3)

    other = fresh()
    other.detector.load_state_dict(weights)
    torch.randn(17)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    other.restore(read_state(tmp_path))
    assert (other.step, other.best, other.evaluation_due) == (4, 0.25, True)
    steps(other, 3)
    for name, value in state.detector.state_dict().items():
        assert torch.equal(value, other.detector.state_dict()[name]), name


def test_changed_settings_apply_after_resuming(tmp_path: Path) -> None:
    state = fresh()
    steps(state, 2)
    write_state(state.contents(), tmp_path)
    other = fresh(replace(SETTINGS, momentum=0.7, weight_decay=0.1))
    other.restore(read_state(tmp_path))
    group = other.optimizer.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.7, 0.1)
    for one, two in zip(other.detector.parameters(), state.detector.parameters(), strict=True):
        assert torch.equal(other.optimizer.state[one]["momentum_buffer"], state.optimizer.state[two]["momentum_buffer"])


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


def test_a_missing_or_truncated_state_is_reported_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Start a new run from the weights"):
        read_state(tmp_path)
    write_state(fresh().contents(), tmp_path)
    whole = (tmp_path / "training.pt").read_bytes()
    (tmp_path / "training.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"training\.pt cannot be read"):
        read_state(tmp_path)


def test_the_log_holds_each_line_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, steps=10) as log:
        log.write(step=0, loss=1.5, lr=0.1)
        assert [(line["step"], line["loss"], line["lr"]) for line in read_log(path)] == [(0, 1.5, 0.1)]
        assert read_log(path)[0]["seconds"] >= 0


def test_a_resumed_log_drops_lines_that_will_be_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with RunLog(path, steps=10) as log:
        for step in range(6):
            log.write(step=step, loss=float(step))
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # the process was killed here
    with RunLog(path, steps=10, first_step=4) as log:
        log.write(step=4, loss=40.0)
    assert [(line["step"], line["loss"]) for line in read_log(path)] == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 40.0)]


def test_without_a_terminal_the_log_prints_plain_lines(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with RunLog(tmp_path / "log.jsonl", steps=3) as log:
        log.write(step=0, loss=1.0)
        log.advance(0)
        log.advance(1)
        log.evaluated(1, 2)
        log.log("step 1: [bold] stays as it is")
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == ["step 1 of 3, loss 1.000, about 0:00:00 left", "step 1: [bold] stays as it is"]


def test_without_a_terminal_the_log_reports_every_30_seconds(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("rcnn.training.log.time.perf_counter", lambda: now)
    with RunLog(tmp_path / "log.jsonl", steps=100) as log:
        log.write(step=0, loss=2.0)
        for step in range(60):
            now += 1.0
            log.advance(step)
        for image in range(1, 46):
            now += 1.0
            log.evaluated(image, 45)
    assert capfd.readouterr().err.splitlines() == [
        "step 1 of 100, loss 2.000, about 0:01:39 left",
        "step 31 of 100, loss 2.000 (step 1), about 0:01:09 left",
        "evaluating after step 60: image 1 of 45",
        "evaluating after step 60: image 31 of 45",
        "evaluating after step 60: image 45 of 45, computing the metrics",
    ]


@pytest.mark.parametrize("line", ["12", "null", "[]", '{"loss": 1.0}', '{"step": "1"}', "{", "\ufffd"])
def test_a_damaged_line_of_the_log_is_skipped(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 1}}\n')
    assert [entry["step"] for entry in read_log(path)] == [0, 1]


def test_the_line_of_an_evaluation_that_is_repeated_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    for due, kept in ((False, 3), (True, 2)):
        path.write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "loss": 1.0}\n{"step": 1, "bbox_AP": 0.5}\n')
        with RunLog(path, steps=3, first_step=2, evaluation_due=due):
            assert len(read_log(path)) == kept


@pytest.mark.compile
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_compiled_steps_and_a_fused_optimizer_give_the_same_weights(
    optimizer: Literal["sgd", "adamw"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names in the checkpoint stay the same, too."""
    monkeypatch.setitem(COMPILE, "default", {"backend": FORWARD})
    plain = replace(SETTINGS, optimizer=optimizer)
    states = [fresh(plain), fresh(replace(plain, compile="default", fused_optimizer=True))]
    for state in states:
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)  # noqa: NPY002
        steps(state, 3)
    expected, found = (state.detector.state_dict() for state in states)
    assert list(found) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_settings_of_compilation_that_do_not_fit() -> None:
    assert TrainConfig(compile="cuda_graphs", padding="bucket").compile == "cuda_graphs"
    with pytest.raises(ValueError, match=r"train\.padding is exact; expected train\.padding=bucket"):
        TrainConfig(compile="cuda_graphs")
    with pytest.raises(ValueError, match="does not work with train"):
        TrainConfig(compile="default", shard=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_without_the_fused_optimizer_torch_chooses_the_kernels(optimizer: Literal["sgd", "adamw"]) -> None:
    """`fused=False` would also forbid "foreach", which torch uses on GPUs."""
    usual = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[optimizer](Layer().parameters(), lr=0.1).defaults
    for fused, expected in ((False, usual["fused"]), (True, True)):
        settings = replace(SETTINGS, optimizer=optimizer, fused_optimizer=fused)
        built = build_optimizer(Layer(), settings).defaults
        assert (built["fused"], built["foreach"]) == (expected, usual["foreach"])


def test_the_random_state_is_that_of_the_gpu_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[object]()
    monkeypatch.setattr("torch.cuda.get_rng_state", asked.append)
    random_state(torch.device("cpu"))
    assert not asked
    random_state(torch.device("cuda:1"))
    assert asked == [torch.device("cuda:1")]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux")
def test_a_full_disk_is_an_error_of_the_disk() -> None:
    with pytest.raises(OSError, match="No space left") as error:
        save_values({"weights": torch.zeros(100_000)}, Path("/dev/full"))
    assert error.value.errno == errno.ENOSPC


def test_numbers_that_are_not_finite_are_null_in_the_log(tmp_path: Path) -> None:
    with RunLog(tmp_path / "log.jsonl", steps=1) as log:
        log.write(step=0, validation_loss=float("nan"), lr=float("inf"), bbox_AP=0.5)
    [line] = (tmp_path / "log.jsonl").read_text().splitlines()
    values = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert values | {"seconds": 0} == {"step": 0, "seconds": 0, "validation_loss": None, "lr": None, "bbox_AP": 0.5}


def test_an_interrupt_of_a_write_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch ends a file that it stopped to write, and raises a RuntimeError."""

    class Interrupted(io.BytesIO):
        @override
        def write(self, values: Buffer) -> int:
            if self.tell() > 1000:
                raise KeyboardInterrupt
            return super().write(values)

    def opened(path: Path, mode: str) -> Interrupted:
        return Interrupted()

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(KeyboardInterrupt):
        save_values({"weights": torch.zeros(100_000)}, Path("training.pt"))
