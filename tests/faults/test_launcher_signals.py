"""The launcher of `--devices N`: repeated signals do not cut off what processes save; failures are reported soon."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from rcnn.runtime import launch
from rcnn.stopping import LAUNCHER, TORCHRUN, stop_with_launcher
from tests.faults.forked_commands import forked

# stands for the package that the launcher runs: notes the signals that arrive while it saves, for up to N seconds
PROCESS = """
import json, os, signal, sys, time
from pathlib import Path
folder, rank, received = Path(sys.argv[1]), os.environ["RANK"], []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: received.append(number))
Path(os.environ["TORCHELASTIC_ERROR_FILE"]).with_name("pid").write_text(str(os.getpid()))
(folder / f"launcher_{rank}").write_text(os.environ["RCNN_LAUNCHER"])
(folder / f"ready_{rank}").touch()
limit = time.monotonic() + 60
while not received and time.monotonic() < limit:
    time.sleep(0.02)
end = time.monotonic() + float(sys.argv[2])
while time.monotonic() < end and len(received) < 2:
    time.sleep(0.02)
(folder / rank).write_text(json.dumps(received))
"""


# process 1 fails as soon as process 0 ignores SIGTERM, as one that waits in a collective of NCCL does
FAILING = """
import os, signal, sys, time
from pathlib import Path
ready = Path(sys.argv[1]) / "ready"
if os.environ["RANK"] == "0":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready.touch()
    time.sleep(60)
for _ in range(3000):
    if ready.exists():
        break
    time.sleep(0.02)
os.kill(os.getpid(), signal.SIGKILL)
"""


def write_package(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have the launched processes run `text`."""
    (folder / "rcnn").mkdir()
    (folder / "rcnn" / "__init__.py").touch()
    (folder / "rcnn" / "__main__.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def stop(folder: Path, monkeypatch: pytest.MonkeyPatch, signals: Sequence[int], *, saving: float) -> launch.Ended:
    """Launch two processes that save for `saving` seconds, and send `signals` to the launcher, 0.3 seconds apart."""
    write_package(folder, monkeypatch, PROCESS)
    over = threading.Event()

    def send() -> None:
        while len(list(folder.glob("ready_*"))) < 2:
            if over.wait(0.02):
                return
        for number in signals:
            if not over.is_set():
                os.kill(os.getpid(), number)
            over.wait(0.3)

    def too_late(*_: object) -> None:
        """A signal that comes after the launcher has ended, on a busy machine, does not end the tests."""

    earlier = {number: signal.signal(number, too_late) for number in (signal.SIGTERM, signal.SIGINT)}
    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        ended = launch.launch_command([str(folder), str(saving)], devices=2)
        assert all(signal.getsignal(number) is too_late for number in earlier), "the launcher restores the handlers"
    finally:
        over.set()
        sender.join(10)
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return ended


def received(folder: Path) -> list[list[int]]:
    return [json.loads((folder / rank).read_text()) for rank in ("0", "1") if (folder / rank).exists()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_repeated_signals_are_one_request_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As `timeout` and batch systems send them, to the process and to its group."""
    ended = stop(tmp_path, monkeypatch, [number] * 3, saving=1.2)
    assert (ended.status, ended.failed) == (128 + number, False)
    assert received(tmp_path) == [[number], [number]]
    assert [(tmp_path / f"launcher_{rank}").read_text() for rank in (0, 1)] == [str(os.getpid())] * 2


def test_a_later_interrupt_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes then end without saving, as a single process does; SIGTERM again changes nothing."""
    monkeypatch.setattr(launch, "REPEATED", 0.1)
    start = time.monotonic()
    ended = stop(tmp_path, monkeypatch, [signal.SIGINT, signal.SIGTERM, signal.SIGINT], saving=60)
    assert ended.status == 128 + signal.SIGINT
    assert received(tmp_path) == [[signal.SIGINT] * 2] * 2
    assert time.monotonic() - start < 50


def test_the_processes_may_save_for_the_time_of_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.STOP_SECONDS > 600
    monkeypatch.setattr(launch, "STOP_SECONDS", 1)
    assert stop(tmp_path, monkeypatch, [signal.SIGTERM], saving=60).status == 128 + signal.SIGTERM
    assert received(tmp_path) == []  # killed after that time


def test_a_failure_is_reported_although_another_process_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert launch.FAILURE_SECONDS < 30
    monkeypatch.setattr(launch, "FAILURE_SECONDS", 1)
    write_package(tmp_path, monkeypatch, FAILING)
    start = time.monotonic()
    ended = launch.launch_command([str(tmp_path)], devices=2)
    assert time.monotonic() - start < 20
    assert (ended.status, ended.failed) == (2, True)
    assert ended.message.startswith("process 1 of 2 was killed by SIGKILL")


def launcher_that_is_killed(folder: Path, variable: str) -> None:
    """Start a process that runs until it gets SIGTERM, and be killed."""
    os.environ[variable] = str(os.getpid())
    if not os.fork():
        signal.signal(signal.SIGTERM, lambda *_: (folder / "stopped").touch())
        stop_with_launcher()
        (folder / "ready").touch()
        limit = time.monotonic() + 60
        while not (folder / "stopped").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        os._exit(0)
    while not (folder / "ready").exists():
        time.sleep(0.02)
    time.sleep(0.1)
    assert not (folder / "stopped").exists()
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("variable", [LAUNCHER, TORCHRUN])
def test_the_processes_stop_when_the_launcher_is_killed(tmp_path: Path, variable: str) -> None:
    """They went on without it."""
    process = forked(launcher_that_is_killed, tmp_path, variable)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    limit = time.monotonic() + 30
    while not (tmp_path / "stopped").exists():
        assert time.monotonic() < limit
        time.sleep(0.05)


def return_after_a_signal(ready: Path) -> str:
    """Stands for a training that a signal stops: it saves, and returns."""
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    ready.touch()
    limit = time.monotonic() + 60
    while not received and time.monotonic() < limit:
        time.sleep(0.02)
    return "saved"


def test_a_function_that_returns_after_a_signal_ends_its_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's launcher has it wait until the result is read; it was killed after STOP_SECONDS only."""
    monkeypatch.setattr(launch, "STOP_SECONDS", 60)
    ready, stopped = tmp_path / "ready", list[float]()

    def send() -> None:
        limit = time.monotonic() + 60
        while not ready.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        stopped.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    assert launch.launch_function(return_after_a_signal, ready, devices=1) == "saved"
    assert time.monotonic() - stopped[0] < 30
    sender.join(10)
