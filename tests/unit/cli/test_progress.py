"""The progress of a command without a terminal."""

from __future__ import annotations

import pytest

from rcnn.cli.progress import progress_bar


def test_without_a_terminal_a_line_comes_every_30_seconds(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("rcnn.cli.progress.time.monotonic", lambda: now)
    with progress_bar("eval", 100) as advance:
        for _ in range(70):
            now += 1.0
            advance()
    out, err = capfd.readouterr()
    assert (out, err.splitlines()) == ("", ["eval: 30 of 100", "eval: 60 of 100"])
