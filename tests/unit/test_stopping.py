"""Signals that ask a command to stop."""

from __future__ import annotations

import os
import signal
import sys
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

import pytest

from rcnn.runtime.launch import _stopped_once
from rcnn.stopping import Stopped, completing, stopping_on_signals


class Mortal:
    """An object that can be referred to weakly."""


def in_a_callback_of_weakref(number: int) -> None:
    mortal = Mortal()
    reference = weakref.ref(mortal, lambda _: signal.raise_signal(number))
    del mortal
    assert reference() is None


def in_del(number: int) -> None:
    class Last:
        def __del__(self) -> None:
            signal.raise_signal(number)

    Last()


def send_and_wait(send: Callable[[int], None], number: int) -> None:
    send(number)
    for _ in range(500):
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("send", [signal.raise_signal, in_a_callback_of_weakref, in_del])
def test_a_signal_stops_the_block_wherever_it_arrives(send: Callable[[int], None], number: int) -> None:
    before, hook = signal.getsignal(number), sys.unraisablehook
    with pytest.raises(Stopped) as error, stopping_on_signals():
        send_and_wait(send, number)
    assert error.value.number == number
    assert signal.getsignal(number) == before
    assert sys.unraisablehook == hook


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_second_ctrl_c_ends_at_once_with_a_line() -> None:
    """Also while the first one removes temporary files, before the command has printed its own line."""
    read, write = os.pipe()
    if not (child := os.fork()):
        try:
            sys.stderr = os.fdopen(write, "w")
            with stopping_on_signals():
                try:
                    signal.raise_signal(signal.SIGINT)
                finally:
                    signal.raise_signal(signal.SIGINT)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as printed:
        assert printed.read() == "rcnn: stopped by SIGINT, twice\n"
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGINT


def test_what_follows_a_stop_is_interrupted_by_ctrl_c_only() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(KeyboardInterrupt), completing():
        list(map(signal.raise_signal, (*numbers[1:], numbers[0])))
    assert [signal.getsignal(number) for number in numbers] == before


@pytest.mark.parametrize("block", [stopping_on_signals, partial(_stopped_once, Path())])
def test_a_background_job_that_ignores_ctrl_c_can_be_interrupted(
    block: Callable[[], AbstractContextManager[None]],
) -> None:
    """Shells start background jobs with SIGINT ignored; a job under nohup must not be stopped by SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGHUP)}
    try:
        with block():
            assert callable(signal.getsignal(signal.SIGINT))
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_other_errors_that_python_discards_are_reported_as_before() -> None:
    reported = list[str]()
    hook = sys.unraisablehook
    sys.unraisablehook = lambda lost: reported.append(str(lost.exc_value))
    try:
        with stopping_on_signals():
            mortal = Mortal()
            weakref.finalize(mortal, lambda: None)
            reference = weakref.ref(mortal, lambda _: 1 / 0)
            del mortal
            assert reference() is None
    finally:
        sys.unraisablehook = hook
    assert reported == ["division by zero"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_signal_ends_a_process_that_a_package_forked(capfd: pytest.CaptureFixture[str]) -> None:
    with stopping_on_signals():
        if not (child := os.fork()):
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    assert capfd.readouterr() == ("", "")
