"""The scripts of benchmarks/: each says its command, and the docs name only scripts and options that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (ROOT / "benchmarks").glob("*.py") if "__main__" in path.read_text(encoding="utf-8"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"benchmarks/(\w+)\.py([^\n`]*)")


def options(script: Path) -> set[str]:
    """The options that a script defines."""
    return set(re.findall(r'add_argument\("(--[\w-]+)"', script.read_text(encoding="utf-8")))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_says_its_command_and_has_help(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    [command, *_] = re.findall(rf"python benchmarks/{script.stem}\.py(.*)", docstring)
    assert set(re.findall(r"--[\w-]+", command)) <= options(script)
    assert "argparse.ArgumentParser(description=__doc__" in text


def test_pages_name_scripts_and_options_that_exist() -> None:
    named = [(page, *found) for page in PAGES for found in COMMAND.findall(page.read_text(encoding="utf-8"))]
    assert len(named) > 10
    for page, name, arguments in named:
        script = ROOT / "benchmarks" / f"{name}.py"
        assert script.exists(), f"{page.name} names {script.name}"
        unknown = set(re.findall(r"(?<!\S)--[\w-]+", arguments)) - options(script)
        assert not unknown, f"{page.name}: {script.name} has no options {unknown}"
