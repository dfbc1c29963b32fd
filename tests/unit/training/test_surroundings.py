"""The state of the git repository that a run was started in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rcnn.training.surroundings import git_state


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes only on Linux")
def test_the_state_of_git_with_names_that_are_not_utf_8(tmp_path: Path) -> None:
    commit = ("-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-mx")
    for words in (("init", "-q"), ("config", "core.quotepath", "false"), commit):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    (tmp_path / "f\udcfcr").touch()
    assert re.fullmatch(r"[0-9a-f]{40}, 1 changed or new files", git_state(tmp_path))
