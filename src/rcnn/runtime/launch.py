"""Start a command in several processes on this machine, with torch's elastic launcher, and report how it ended."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
from torch.distributed.elastic.multiprocessing import (
    DefaultLogsSpecs,
    MultiprocessContext,
    PContext,
    SignalException,
)
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rcnn import threads
from rcnn.arguments import is_whole_number
from rcnn.commands import as_typed
from rcnn.data.messages import counted
from rcnn.runtime.devices import Device
from rcnn.runtime.in_flight import ERROR_FILE, IN_FLIGHT, PID, SIGNALLED, STOPPED, first_signal, signal_of
from rcnn.runtime.meeting import LostProcessError
from rcnn.stopping import LAUNCHER, STOP_SECONDS, stop_with_launcher

T = TypeVar("T")

LAUNCHED = "RCNN_LAUNCHED"  # set for the processes: this launcher prints their errors
TYPED = "RCNN_TYPED"  # set for the processes: the command that the user typed
TORCH_LOG = "TORCH_CPP_LOG_LEVEL"  # its warnings of a lost process have the stack of torch's C++ functions
LOST = "lost"  # key in an error file: the process only lost the connection to another one
COMMON = "common"  # key in an error file: the message is not about the process that has it
RESULT = "result"  # file with what a function returned in a process, beside its error file
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")  # passed on to the processes; Windows has only two
REPEATED = 2.0  # seconds: `timeout` and batch systems signal this process and its group; both count as one signal
KILLED_HERE = 3  # see _caused_by_another
FAILURE_SECONDS = 20  # time for the other processes to end after one has failed; then the failure is reported


class ProcessFailedError(ValueError):
    """One of several processes has failed. The message is its error, with its number."""


class FailedWhileStoppingError(ProcessFailedError):
    """A process has failed after a signal had asked it to stop."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How the processes ended."""

    status: int  # exit status
    failed: bool = False  # neither finished nor stopped by a signal, so that starting again may help
    message: str = ""  # error of the process that failed first, with its number and what it was doing


def require_devices(devices: int, device: Device) -> None:
    """Raise ValueError unless `devices` processes can be started here: one per GPU, or any number on a CPU."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        what, option = (f"--devices {devices}", "--devices") if devices > 1 else ("--max-restarts",) * 2
        raise ValueError(
            f"{what} starts the processes itself, but WORLD_SIZE={os.environ['WORLD_SIZE']} says that a launcher such "
            f"as torchrun did: leave {option} out (in Python devices=, max_restarts=)"
        )
    device = f"cuda:{device}" if is_whole_number(device) else str(device)
    gpus = torch.cuda.device_count() if device in ("auto", "cuda") else 0
    if device.startswith("cuda:") or device == "mps":
        raise ValueError(
            f"device {device} cannot be chosen for processes that rcnn starts (--devices, --max-restarts; in Python "
            "devices=, max_restarts=): give --device cuda or cpu (device=), or leave it out"
        )
    if device == "cuda" and not gpus:
        raise ValueError("--device cuda: torch finds no GPU here; use cpu, or run `rcnn doctor`")
    if gpus and devices > gpus:
        raise ValueError(
            f"--devices {devices}, but this machine has {counted(gpus, 'GPU')}; one process needs one GPU: set "
            f"--devices {gpus} or less"
        )


def require_sendable(**arguments: object) -> None:
    """Raise ValueError for an argument that cannot be sent to a process that is started, e.g. a lambda."""
    for name, value in arguments.items():
        try:
            ForkingPickler.dumps(value)
        except Exception as error:  # PicklingError, AttributeError, TypeError: it depends on the value
            raise ValueError(
                f"{name} cannot be sent to the processes that are started (devices=, max_restarts=): {error}. Define "
                "functions and classes at the top level of a module, not inside a function or as a lambda"
            ) from error


def typed_command() -> str:
    """The command that the user typed to start this process, or the process that launched it."""
    program = Path(sys.argv[0])
    started = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return os.environ.get(TYPED, "") or as_typed(*started, *sys.argv[1:])


def launch_command(
    words: Sequence[str], *, devices: int, typed: Sequence[str] = (), same_threads: bool = False
) -> Ended:
    """Run `rcnn WORDS` in `devices` processes. Signals are passed on to them; if one fails, the others are ended.

    `typed`: the words that the user typed after `rcnn`, for the record of a run; defaults to `words`. `same_threads`:
    each process has as many CPU threads as one alone would have, so that its results are the same; else it has a share
    of the cores. OMP_NUM_THREADS, if the user has set it, counts in both cases.
    """
    with tempfile.TemporaryDirectory(prefix="rcnn-") as logs:
        try:
            with (
                _environment(devices, typed or words, same_threads=same_threads),
                _stopped_once(Path(logs)),
                _failures_reported_soon(),
            ):
                elastic_launch(_config(devices, logs), sys.executable)("-P", "-m", "rcnn", *words)
        except SignalException as stop:
            if message := _error_while_stopping(devices, Path(logs)):
                return Ended(status=2, message=message)
            return _stopped(int(stop.sigval), Path(logs), "stopped")
        except ChildFailedError as error:
            return _ended(error.failures, devices, Path(logs))
    return Ended(status=0)


def launch_function(function: Callable[..., T], *arguments: object, devices: int, same_threads: bool = False) -> T:
    """Call `function(*arguments)` in `devices` processes; returns the result of the first process.

    These are new Python processes, so a script has to call this below `if __name__ == "__main__":`. A signal is passed
    on to them; if the first one then returns a result, this is returned, else KeyboardInterrupt (Ctrl-C) or SystemExit
    is raised. `same_threads` as for `launch_command`. Raises ProcessFailedError with the message of the process that
    failed first, also while stopping.
    """
    with (
        tempfile.TemporaryDirectory(prefix="rcnn-") as logs,
        _environment(devices, same_threads=same_threads),
        _stopped_once(Path(logs)),
        _failures_reported_soon(),
    ):
        try:
            return elastic_launch(_config(devices, logs), _apart)(function, *arguments)[0]
        except SignalException as stop:
            if message := _error_while_stopping(devices, Path(logs)):
                raise FailedWhileStoppingError(message) from stop
            return _result_after(stop, Path(logs))
        except ChildFailedError as error:
            ended = _ended(error.failures, devices, Path(logs))
            # without a message, e.g. after sys.exit in the user's code
            text = ended.message or f"a process ended with exit status {ended.status} before it had a result"
            raise ProcessFailedError(text) from error


def _result_after(stop: SignalException, logs: Path) -> Any:
    """What the function returned in the first process after a signal asked it to stop."""
    for path in logs.glob(f"**/0/{RESULT}"):
        return ForkingPickler.loads(path.read_bytes())
    if stop.sigval == signal.SIGINT:
        raise KeyboardInterrupt from stop
    raise SystemExit(128 + int(stop.sigval)) from stop


def _apart(function: Callable[..., T], *arguments: object) -> T:
    """Call `function(*arguments)` in a process that gets signals from its launcher only.

    The terminal sends Ctrl-C to all processes of its session. In a session of its own, as torch's launcher starts
    commands, this process does not get it a second time. It notes its id for `_signal_processes`, and its result for
    `_result_after`.
    """
    if hasattr(os, "setsid"):  # not on Windows
        os.setsid()
    stop_with_launcher()
    error_file = os.environ.get(ERROR_FILE, "")
    if error_file:
        Path(error_file).with_name(PID).write_text(str(os.getpid()), encoding="utf-8")
    result = function(*arguments)
    if error_file:
        Path(error_file).with_name(RESULT).write_bytes(ForkingPickler.dumps(result))
    return result


def _config(devices: int, logs: str) -> LaunchConfig:
    for name in list(logging.root.manager.loggerDict):
        if name.startswith(("torch.distributed.elastic", "torch.distributed.launcher")):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # this module reports what happens
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=logs),
        signals_to_handle="",  # torch's handler lets a repeated signal interrupt the wait for the processes
        shutdown_timeout=STOP_SECONDS,  # after a stop; after a failure see FAILURE_SECONDS
    )


@contextmanager
def _environment(devices: int, typed: Sequence[str] = (), *, same_threads: bool = False) -> Iterator[None]:
    """Within the block, environment variables for the processes."""
    added = {LAUNCHED: "1", LAUNCHER: str(os.getpid())}
    if TORCH_LOG not in os.environ:
        added[TORCH_LOG] = "ERROR"
    if typed:
        added[TYPED] = as_typed("rcnn", *typed)
    if not threads.set_by_user():
        added[threads.NUMBER] = str(torch.get_num_threads() if same_threads else threads.per_process(devices))
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
        threads.prepare()


class _StopOnce:
    """The signal handler: the first signal stops the processes; repetitions within REPEATED seconds have no effect.

    After that, as in a single process, a second Ctrl-C ends the run without saving; a third one kills the processes.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._first: float | None = None  # when the first signal arrived
        self._interrupts = 0  # Ctrl-C after that

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Have torch's launcher pass on the first signal and wait for the processes."""
        if self._first is None:
            self._first = time.monotonic()
            with suppress(OSError):  # the disk is full
                (self._logs / SIGNALLED).touch()
            raise SignalException(f"stopped by signal {number}", signal.Signals(number))
        if number == signal.SIGINT and time.monotonic() - self._first > REPEATED:
            self._interrupts += 1
            _signal_processes(self._logs, signal.SIGINT if self._interrupts == 1 else signal.SIGKILL)


@contextmanager
def _stopped_once(logs: Path) -> Iterator[None]:
    """Within the block, _StopOnce handles signals. No effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    stop = _StopOnce(logs)
    for number, handler in before.items():
        # nohup ignores SIGHUP; shells ignore SIGINT in background jobs, which must still be stoppable
        if handler is not signal.SIG_IGN or number != getattr(signal, "SIGHUP", None):
            signal.signal(number, stop.handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # None: not set by Python


@contextmanager
def _failures_reported_soon() -> Iterator[None]:
    """Within the block, if a process fails, the others are killed after FAILURE_SECONDS.

    In a collective of NCCL, they do not react to SIGTERM. torch's launcher waits for 30 seconds, without a setting.
    A process that has returned its result waits until the launcher has read it. Once the launcher is stopping, it no
    longer reads results, so the processes are released here.
    """
    close = PContext.close

    def close_soon(self: PContext, death_sig: signal.Signals | None = None, timeout: int = FAILURE_SECONDS) -> None:
        if isinstance(self, MultiprocessContext):
            self._worker_finished_event.set()
        close(self, death_sig, timeout)

    PContext.close = close_soon  # type: ignore[method-assign]
    try:
        yield
    finally:
        PContext.close = close  # type: ignore[method-assign]


def _signal_processes(logs: Path, number: int) -> None:
    """Send the signal `number` to the processes that have noted their ids in `logs`."""
    for note in logs.glob(f"**/{PID}"):
        with suppress(OSError, ValueError):  # it has ended, or is just writing the note
            os.kill(int(note.read_text(encoding="utf-8")), number)


def _ended(failures: Mapping[int, ProcessFailure], devices: int, logs: Path) -> Ended:
    """The result for the failure that was the cause: the first one that no other process has caused."""
    first = min(failure.timestamp for failure in failures.values())
    causes = {rank: _caused_by_another(failure, first) for rank, failure in failures.items()}
    rank = min(failures, key=lambda rank: (causes[rank], failures[rank].timestamp, rank))
    failure = failures[rank]
    data: Mapping[str, Any] = failure.error_file_data
    has_message = isinstance(data.get("message"), Mapping)
    number, stopped = first_signal(logs)
    # the launcher stops the others when one process ends: a process that ended otherwise was not stopped by this signal
    if number and (causes[rank] or (failure.exitcode == 128 + number and not has_message)):
        return _stopped(number, logs, f"process {stopped} of {devices} was stopped")
    where = f"process {rank} of {devices}"
    if failure.exitcode < 0:
        doing = _in_flight(logs, failure.local_rank)
        hint = ", most often because the memory ran out" if failure.exitcode == -signal.SIGKILL else ""
        return Ended(status=2, failed=True, message=f"{where} was killed by {failure.signal_name()}{hint}{doing}")
    if not has_message:  # it has ended as intended, with its own exit status
        if failure.exitcode == 128 + signal_of(logs, failure.local_rank):  # after the others had lost it
            return _stopped(failure.exitcode - 128, logs, f"{where} was stopped")
        return Ended(status=failure.exitcode)
    message = _text(data)
    if not data.get(COMMON, False):
        message += f"\n({where}{_in_flight(logs, failure.local_rank)})"
    for other, cause in causes.items():
        if cause == KILLED_HERE:
            doing = _in_flight(logs, failures[other].local_rank)
            message += f"\nprocess {other} of {devices} did not react and was killed{doing}"
    return Ended(status=failure.exitcode, failed=True, message=message)


def _stopped(number: int, logs: Path, what: str) -> Ended:
    """The result after the signal `number`; with a message unless the first process has said what became of the run.

    `what` was stopped: the beginning of the message.
    """
    told = any(note.read_text(encoding="utf-8").endswith("told") for note in logs.glob(f"**/{STOPPED}"))
    return Ended(status=128 + number, message="" if told else f"{what} by {signal.Signals(number).name}")


def _text(data: Mapping[str, Any]) -> str:
    """The message in the content of an error file, with the traceback of an unexpected error."""
    text = str(data["message"].get("message", ""))
    if not data.get("expected", False):
        text += "\n" + str(data["message"].get("extraInfo", {}).get("py_callstack", ""))
    return text.rstrip()


def _error_while_stopping(devices: int, logs: Path) -> str:
    """The error of a process that could not stop as asked, e.g. last/ on a full disk; "" if there is none.

    After a signal, torch's launcher does not read the error files. A process that only lost the connection to another
    one has no error of its own: the others may have stopped first.
    """
    for path in sorted(logs.glob("**/error.json"), key=lambda path: path.stat().st_mtime):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # cut short
            continue
        if not isinstance(data.get("message"), Mapping):
            continue
        # torch writes the errors of functions, without `LOST`, as "TypeName: message"
        if not data.get(LOST, False) and not _text(data).startswith(LostProcessError.__name__):
            return f"{_text(data)}\n(process {path.parent.name} of {devices}, while stopping)"
    return ""


def _caused_by_another(failure: ProcessFailure, first: int) -> int:
    """0: a failure of its own; 1: the process lost the connection to another one; 2: the launcher ended it.

    KILLED_HERE: it had to be killed, because it did not end within FAILURE_SECONDS after the first failure, at `first`
    (seconds).
    """
    data: Mapping[str, Any] = failure.error_file_data
    if failure.exitcode == -signal.SIGKILL and failure.timestamp - first >= FAILURE_SECONDS - 1:
        return KILLED_HERE
    ended = failure.exitcode in (-signal.SIGTERM, 128 + signal.SIGTERM)  # at once, or after it has saved its state
    return 2 if ended else int(bool(data.get(LOST, False)))


def _in_flight(logs: Path, local_rank: int) -> str:
    """What the process was working on, from its in-flight file; "" if there is none."""
    notes = sorted(logs.glob(f"**/{local_rank}/{IN_FLIGHT}"), key=lambda path: path.stat().st_mtime)
    text = notes[-1].read_text(encoding="utf-8", errors="replace").strip() if notes else ""
    return f", at {text}" if text else ""
