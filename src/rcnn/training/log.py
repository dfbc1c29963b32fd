"""What a run tells: lines of JSON in a file, and to a terminal a progress bar with the time left."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class RunLog:
    """`log.jsonl` of a run, one object a line, each on disk when `write` returns, and the bar on a terminal."""

    def __init__(self, path: Path, *, steps: int, first_step: int = 0) -> None:
        """Lines of `first_step` and later, left by a run that was broken off, are dropped: they will come again."""
        self.path, self.steps = path, steps
        kept = [line for line in read_log(path) if line["step"] < first_step]
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_name(path.name + ".new")
        new.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(new, path)
        self._file = path.open("a", encoding="utf-8")
        self._started = time.perf_counter()
        self.console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("train", total=steps, completed=first_step, note="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        self._file.close()

    def advance(self, step: int) -> None:
        """`step` is done."""
        self._bar.update(self._task, completed=step + 1)

    def write(self, *, step: int, **values: object) -> None:
        """One line of `values`, with the seconds since the run (or its resumption) began."""
        line = {"step": step, "seconds": round(time.perf_counter() - self._started, 3), **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if isinstance(loss := values.get("loss"), float):
            self._bar.update(self._task, note=f"loss {loss:.3f}")

    def say(self, text: str) -> None:
        """A line for people, on stderr, above the bar."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)


def read_log(path: Path) -> list[dict]:
    """The lines of a log, oldest first; none where there is no file, and none of a line that a crash cut short."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines
