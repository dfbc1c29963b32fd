"""Signals that ask a command to stop."""

from __future__ import annotations

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
from rcnn.stopping import Stopped, stopping_on_signals


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
