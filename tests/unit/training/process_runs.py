"""Functions run in several gloo processes, for tests."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from rcnn.runtime.processes import Processes, joined

SECONDS = 300  # that the processes may take
PATIENCE = 20  # seconds that the others may take after one has failed
IMPORTED = ("rcnn.evaluation.api", "rcnn.training.run", __name__)


def in_processes(count: int, folder: Path, function: Callable[[Processes], Any]) -> list[Any]:
    """What `function` returns in each of `count` processes, by rank; it has to be what `torch.save` can write."""
    started(count, folder, partial(_joined, folder, function))
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(count)]


def _joined(folder: Path, function: Callable[[Processes], Any], rank: int) -> None:
    with joined(torch.device("cpu")) as processes:
        torch.save(function(processes), folder / f"{rank}.pt")


def started(count: int, folder: Path, act: Callable[[int], object]) -> None:
    """Call `act(rank)`, which must be picklable, in `count` processes that have the variables of torchrun.

    They are forked from a server that has imported rcnn, so that they start at once. An error in one fails the test.
    """
    processes = start(count, folder, act)
    end = time.monotonic() + SECONDS
    while any(process.is_alive() for process in processes) and time.monotonic() < end:
        time.sleep(0.05)
        if any(process.exitcode for process in processes):
            end = min(end, time.monotonic() + PATIENCE)
    for process in processes:
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * count, errors_in(folder)


def start(count: int, folder: Path, act: Callable[[int], object]) -> list[BaseProcess]:
    """The processes that call `act`, by rank, just started; an error goes to a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    processes = [context.Process(target=_run, args=(rank, count, port, folder, act)) for rank in range(count)]
    for process in processes:
        process.start()
    return list[BaseProcess](processes)


def errors_in(folder: Path) -> str:
    """What the processes have written about their errors."""
    return "\n".join(path.read_text() for path in sorted(folder.glob("*.error")))


def _run(rank: int, count: int, port: int, folder: Path, act: Callable[[int], object]) -> None:
    torch.set_num_threads(1)
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in numbers.items()} | {"MASTER_ADDR": "127.0.0.1"}
    try:
        act(rank)
    except BaseException:
        (folder / f"{rank}.error").write_text(f"process {rank}:\n{traceback.format_exc()}")
        raise


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
