"""What else is in a folder that is replaced as a whole stays, whenever the process is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rcnn.outputs import recover_folder, replace_folder

NAMES = ("model", "state")


def write(*names: str) -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for name in names:
            (folder / name).write_text("new")

    return fill


def old_folder(path: Path) -> Path:
    (path / "notes").mkdir(parents=True)
    for name in ("model", "state", "a.txt", "notes/b.txt"):
        (path / name).write_text("old")
    return path


def contents(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_other_files_stay(tmp_path: Path) -> None:
    folder = old_folder(tmp_path / "last")
    replace_folder(folder, write("model"), names=NAMES)
    assert contents(folder) == {"model": "new", "a.txt": "old", "notes/b.txt": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("kill", [1, 2, 3, 4])
def test_other_files_stay_after_a_kill(tmp_path: Path, kill: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the four renames is the last thing that the process does."""
    folder, rename, done = old_folder(tmp_path / "last"), os.rename, list[int]()

    def killed(*paths: Any) -> None:
        rename(*paths)
        done.append(1)
        if len(done) == kill:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            replace_folder(folder, write("model"), names=NAMES)
    recover_folder(folder, names=NAMES)
    own = {"model": "old", "state": "old"} if kill == 1 else {"model": "new"}
    assert contents(folder) == own | {"a.txt": "old", "notes/b.txt": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["last"]
