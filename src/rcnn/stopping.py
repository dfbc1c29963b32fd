"""Requests to stop a command: SIGINT (Ctrl-C), SIGTERM (kill, batch systems), SIGHUP (a lost terminal), or the end of
its launcher.
"""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

AGAIN = 0.02  # seconds until `Stopped` is raised again, if Python discarded it
STOP_SECONDS = 1800  # time for the processes of a run to save a checkpoint before they are killed
TORCHRUN = "TORCHELASTIC_RUN_ID"  # environment variable of the processes that torchrun starts
LAUNCHER = "RCNN_LAUNCHER"  # environment variable of these processes: the id of the one that started them


_LAUNCHERS = list[int]()  # the id of the launcher of this process, if there is one


class Stopped(BaseException):
    """A signal asked the command to stop. Not an Exception, so that code that handles errors does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Within the block, a signal raises Stopped, so that temporary files are removed; see `_end_at_once` for a second
    Ctrl-C.

    Training replaces these handlers by its own (training/signals.py). No effect outside the main thread, or in a
    process that a package forks within the block, which a signal ends as usual.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGINT", "SIGTERM", "SIGHUP")  # Windows has no SIGHUP
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    # nohup ignores SIGHUP; shells ignore SIGINT in background jobs, which must still be stoppable
    ignored = {getattr(signal, "SIGHUP", None)}
    taken = [number for number, handler in before.items() if handler is not signal.SIG_IGN or number not in ignored]

    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for each in taken:
            signal.signal(each, _end_at_once if each == signal.SIGINT else signal.SIG_IGN)
        raise Stopped(number)

    unraisable = sys.unraisablehook

    def raise_again(lost: sys.UnraisableHookArgs) -> None:
        """Raise Stopped again: Python discards exceptions that a handler raises in a weakref callback or `__del__`."""
        if not isinstance(lost.exc_value, Stopped):
            unraisable(lost)
            return
        number = lost.exc_value.number
        signal.signal(number, stop)
        timer = threading.Timer(AGAIN, _thread.interrupt_main, (number,))
        timer.daemon = True
        timer.start()

    for number in taken:
        signal.signal(number, stop)
    sys.unraisablehook = raise_again
    try:
        yield
    finally:
        sys.unraisablehook = unraisable
        for number in taken:
            signal.signal(number, before[number] or signal.SIG_DFL)  # None: not set by Python


def _end_at_once(number: int, frame: FrameType | None) -> None:
    """The handler of a second Ctrl-C: end the process, with a line, because the command has not said its own yet."""
    with suppress(OSError, ValueError):  # the terminal is gone, or stderr has no file descriptor
        os.write(sys.stderr.fileno(), f"rcnn: stopped by {signal.Signals(number).name}, twice\n".encode())
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


@contextmanager
def completing() -> Iterator[None]:
    """A block in which a run that was stopped completes its files and messages, so that further signals are ignored.

    Ctrl-C raises KeyboardInterrupt. No effect outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")  # Windows has only the first
    handlers = {getattr(signal, name): signal.SIG_IGN for name in names if hasattr(signal, name)}
    before = {
        number: signal.signal(number, handler) or signal.SIG_DFL  # None: not set by Python
        for number, handler in (handlers | {signal.SIGINT: signal.default_int_handler}).items()
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_with_launcher() -> None:
    """Have this process stop as after SIGTERM when its launcher has ended, e.g. killed because the memory ran out.

    The launcher is that of `--devices`, or torchrun. No effect without one, or on Windows, where a process keeps the id
    of its parent.
    """
    launcher = os.environ.pop(LAUNCHER, "")  # so that a command that this process runs does not have it
    if not launcher and TORCHRUN in os.environ:
        launcher = str(os.getppid())
    if launcher and sys.platform != "win32":
        _LAUNCHERS.append(int(launcher))
        threading.Thread(target=_stop_after, args=(int(launcher),), name="launcher", daemon=True).start()


def has_lost_launcher() -> bool:
    """Whether the launcher of this process has ended; nothing reads what is written for it."""
    return any(os.getppid() != launcher for launcher in _LAUNCHERS)


def _stop_after(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
