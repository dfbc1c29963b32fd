"""A training that prints nothing at first says that it is loading."""

from __future__ import annotations

import time

import pytest

from rcnn.cli import loading_line
from rcnn.cli.train import _status, print_of_run


@pytest.mark.parametrize("first", [_status, print_of_run, None])
def test_a_line_appears_unless_something_else_does(
    first: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading_line, "SECONDS", 0.3 if first else 0.01)
    loading_line.start_loading_line()
    timer = loading_line.TIMER.get()
    assert timer is not None
    if callable(first):
        first("reading the data")
    timer.join(60)
    loading_line.end_loading_line()
    printed = capsys.readouterr()
    assert printed.out + printed.err == ("reading the data\n" if first else "loading ...\n")


def test_a_command_that_ends_soon_has_no_such_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loading_line, "SECONDS", 0.05)
    loading_line.start_loading_line()
    loading_line.end_loading_line()
    time.sleep(0.1)
    assert capsys.readouterr().err == ""
