"""A second Ctrl-C, while the first one ends the command."""

from __future__ import annotations

import pytest
import typer

from rcnn.cli import app
from rcnn.cli.main import main


def test_a_ctrl_c_that_typer_turns_into_an_exit_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def doctor() -> None:
        raise KeyboardInterrupt

    interrupted = typer.Typer(callback=lambda: None)
    interrupted.command("doctor")(doctor)
    monkeypatch.setattr(app, "app", interrupted)
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    assert end.value.code == 130
    assert capsys.readouterr().err.endswith("rcnn: stopped by SIGINT\n")
