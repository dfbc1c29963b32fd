"""Worker processes: signals, death, silence and exceptions give one clear error, and nothing waits forever."""

from __future__ import annotations

import io
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock
from urllib.error import HTTPError

import pytest
import torch
from typing_extensions import override

from rcnn.data.loading import TrainingBatch, WorkerError, training_batches, workers
from rcnn.data.loading.workers import batches_of_workers
from rcnn.data.records import Dataset
from rcnn.structures import ImageBatch, Targets
from tests.unit.training.noise_folders import Model, Settings, seven_images, take


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return seven_images(tmp_path_factory.mktemp("workers"))


class Numbered:
    """Batches that contain their number; `act` is called in the worker before batch n is made."""

    def __init__(self, act: Callable[[int], object] = lambda n: None) -> None:
        self.act = act

    def make(self, n: int, after_image: Callable[[], None] | None = None) -> TrainingBatch:
        self.act(n)
        return TrainingBatch(
            images=ImageBatch(pixels=torch.full((1, 3, 4, 5), n, dtype=torch.uint8), sizes=torch.tensor([[4, 5]])),
            targets=Targets(
                boxes=torch.zeros(1, 0, 4), labels=torch.zeros(1, 0, dtype=torch.int64), valid=torch.zeros(1, 0).bool()
            ),
            image_ids=(n,),
        )


def numbers(batches: list[TrainingBatch]) -> list[int]:
    return [int(batch.images.pixels[0, 0, 0, 0]) for batch in batches]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_batches_come_in_order(count: int) -> None:
    stream = batches_of_workers(Numbered(), 5, count)
    found = take(stream, 10)
    assert numbers(found) == list(range(5, 15))
    assert [batch.image_ids for batch in found] == [(n,) for n in range(5, 15)]
    assert found[0].targets.boxes.shape == (1, 0, 4)


def test_without_memory_files_batches_go_through_the_pipe(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = take(training_batches(dataset, Model(), Settings()), 3)
    monkeypatch.setattr(workers, "MEMORY_FILES", False)
    for batch, other in zip(expected, take(training_batches(dataset, Model(), Settings(workers=2)), 3), strict=True):
        assert torch.equal(batch.images.pixels, other.images.pixels)
        assert torch.equal(batch.targets.boxes, other.targets.boxes)


def test_a_stop_signal_while_workers_start_is_delivered_when_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a hook that Python calls around a fork, the error of a signal handler would be printed and lost."""
    started: list[str] = []
    start = multiprocessing.process.BaseProcess.start

    def start_and_stop(process: multiprocessing.process.BaseProcess) -> None:
        signal.raise_signal(signal.SIGTERM)  # as during the hooks
        start(process)
        started.append(process.name)

    def handle(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_and_stop)
    before = signal.signal(signal.SIGTERM, handle)
    try:
        stream = batches_of_workers(Numbered(), 0, 1)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert len(started) == 1
        assert signal.getsignal(signal.SIGTERM) is handle
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_workers_ignore_signals_that_reach_the_whole_group(number: int) -> None:
    """A terminal or a batch system signals every process; the main process still needs the batches of its step."""
    stream = batches_of_workers(Numbered(), 0, 2)
    found = take(stream, 2)  # one of each worker: both have started
    for worker in multiprocessing.active_children():
        os.kill(worker.pid or 0, number)
    assert numbers(found + take(stream, 7)) == list(range(9))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("when", [0, 3])
def test_a_killed_worker_is_reported_within_seconds(count: int, when: int) -> None:
    def die(n: int) -> None:
        if n == when:
            os.kill(os.getpid(), signal.SIGKILL)

    before = signal.getsignal(signal.SIGCHLD)
    started = time.monotonic()
    with pytest.raises(WorkerError, match=r"worker process \d+.* was killed by SIGKILL\. .*train\.workers=0"):
        take(batches_of_workers(Numbered(die), 0, count), 10)
    assert time.monotonic() - started < 10
    assert signal.getsignal(signal.SIGCHLD) is before  # torch's own would raise anywhere in the main thread
    assert not multiprocessing.active_children()


class UnpicklableError(Exception):
    """An error that cannot be made again from its arguments."""

    def __init__(self, host: str, code: int) -> None:
        super().__init__(f"{host} answered {code}")


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (ConnectionResetError(104, "Connection reset by peer"), ConnectionError, "Connection reset by peer"),
        (EOFError("no more data"), EOFError, "no more data"),
        (HTTPError("http://a.org/1.jpg", 503, "Busy", Message(), io.BytesIO()), OSError, "HTTPError: .*503: Busy"),
        (UnpicklableError("a.org", 503), RuntimeError, "UnpicklableError: a.org answered 503"),
    ],
)
def test_errors_of_a_data_set_that_reads_from_a_network(error: Exception, kind: type[Exception], message: str) -> None:
    def fail(n: int) -> None:
        raise error

    with pytest.raises(kind, match=message) as found:
        take(batches_of_workers(Numbered(fail), 0, 1), 1)
    assert not isinstance(found.value, WorkerError)


def test_a_worker_killed_from_outside_is_reported() -> None:
    stream = batches_of_workers(Numbered(lambda n: time.sleep(0.05)), 0, 2)
    take(stream, 2)
    os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerError, match="SIGKILL"):
        take(stream, 20)


def test_a_worker_that_exits_is_reported() -> None:
    with pytest.raises(WorkerError, match=r"ended \(status 7\)"):
        take(batches_of_workers(Numbered(lambda n: os._exit(7)), 0, 1), 1)


def test_a_silent_worker_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE", 2)
    stop = Numbered(lambda n: os.kill(os.getpid(), signal.SIGSTOP) if n == 1 else None)
    started = time.monotonic()
    with pytest.raises(WorkerError, match="has not responded for 2 seconds"):
        take(batches_of_workers(stop, 0, 1), 2)
    assert time.monotonic() - started < 10
    assert not multiprocessing.active_children()


def test_the_time_of_a_suspended_computer_hardly_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    wait = Mock(return_value=[])
    monkeypatch.setattr(workers, "connection", SimpleNamespace(wait=wait))
    monkeypatch.setattr(workers, "time", SimpleNamespace(monotonic=Mock(side_effect=itertools.count(step=3600))))
    with pytest.raises(WorkerError, match="has not responded for 100 seconds"):
        take(batches_of_workers(Numbered(), 0, 1), 1)
    assert wait.call_count == 50  # each hour counts as 2 seconds


def test_a_slow_batch_is_not_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Numbered):
        @override
        def make(self, n: int, after_image: Callable[[], None] | None = None) -> TrainingBatch:
            assert after_image is not None
            for _ in range(4):
                time.sleep(1.1)
                after_image()
            return super().make(n)

    monkeypatch.setattr(workers, "PATIENCE", 3)
    assert numbers(take(batches_of_workers(Slow(), 0, 1), 1)) == [0]


def test_closing_ends_workers_that_are_busy() -> None:
    stream = batches_of_workers(Numbered(lambda n: time.sleep(60) if n else None), 0, 2)
    take(stream, 1)
    started = time.monotonic()
    stream.close()
    assert time.monotonic() - started < 5
    assert not multiprocessing.active_children()


def test_an_error_in_a_worker_keeps_its_type_and_traceback() -> None:
    with pytest.raises(IndexError, match="list index out of range") as caught:
        take(batches_of_workers(Numbered(lambda n: [][n]), 0, 1), 1)
    assert any("test_workers.py" in note for note in caught.value.__notes__)


def test_an_unreadable_image_is_raised_as_it_is(tmp_path: Path) -> None:
    def refuse(n: int) -> None:
        raise FileNotFoundError(2, "No such file", "photo.jpg")

    with pytest.raises(FileNotFoundError, match=r"photo\.jpg") as caught:
        take(batches_of_workers(Numbered(refuse), 0, 1), 1)
    assert caught.value.filename == "photo.jpg"


def test_workers_end_with_the_main_process() -> None:
    reader, writer = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        stream = batches_of_workers(Numbered(), 0, 3)
        take(stream, 3)
        writer.send([worker.pid for worker in multiprocessing.active_children()])
        time.sleep(60)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    pids = reader.recv()
    assert len(pids) == 3
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)


def test_a_stream_that_nobody_closes_does_not_hang_the_exit() -> None:
    code = (
        "import multiprocessing\n"
        "from tests.unit.data.test_workers import Numbered, batches_of_workers\n"
        "stream = batches_of_workers(Numbered(), 0, 2); next(stream)\n"
        "print(*(worker.pid for worker in multiprocessing.active_children()))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, timeout=120, env=environment, capture_output=True, text=True)
    pids = done.stdout.split()
    assert len(pids) == 2
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids)
