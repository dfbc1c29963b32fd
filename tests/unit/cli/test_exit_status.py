"""Exit statuses of the command: 1 means that it finished and some inputs failed, so no error may end with it."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("error", "words", "status", "last"),
    [
        ("KeyError('x')", ["doctor"], 2, "KeyError: 'x'"),  # a bug; 1 would mean: finished, but some inputs failed
        ("RuntimeError('sizes do not match')", ["doctor"], 2, "RuntimeError: sizes do not match"),
        ("ValueError('x')", ["doctor"], 2, "rcnn: x"),
        ("ValueError('x')", ["--debug", "doctor"], 2, "ValueError: x"),
        ("Stopped(15)", ["--debug", "doctor"], 143, "rcnn.stopping.Stopped"),
    ],
)
def test_the_status_of_an_error_is_the_same_with_its_traceback(
    error: str, words: list[str], status: int, last: str
) -> None:
    script = f"""
import sys, types
from rcnn.cli.main import main
from rcnn.stopping import Stopped

def app(*_, **__):
    raise {error}

sys.modules["rcnn.cli.app"] = types.SimpleNamespace(app=app)
sys.argv = ["rcnn", *{words}]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert done.stderr.splitlines()[-1].startswith(last)
    assert ("Traceback" in done.stderr) == (not last.startswith("rcnn: "))
