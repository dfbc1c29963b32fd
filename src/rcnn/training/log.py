"""The log of a run: JSON lines in a file, and a progress bar, or plain lines without a terminal."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override

from rcnn.outputs import TEMPORARY, naming
from rcnn.training.trackers import Reports
from rcnn.training.view import RunSize, details, speed

QUIET = 30.0  # without a terminal, a plain line reports the progress after this time without a line, seconds


class SilentLog:
    """The log of a process that reports nothing, because the first process does: RunLog's methods, without effect."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def write(self, *, step: int, **values: object) -> None:
        """One line: the step and `values`."""

    def sync(self) -> None:
        """Force the lines to the disk."""

    def waiting(self) -> AbstractContextManager[None]:
        """A block in which the model waits for images."""
        return nullcontext()

    def advance(self, step: int) -> None:
        """Report that `step` (counted from 0) is done."""

    def evaluated(self, images: int, total: int) -> None:
        """Report that `images` of `total` images of the validation set are done."""

    def log(self, text: str) -> None:
        """A status message."""


class RunLog(SilentLog):
    """`log.jsonl` of a run, one JSON object per line, flushed after each line; and its progress on stderr."""

    def __init__(
        self,
        path: Path,
        *,
        steps: int,
        first_step: int = 0,
        evaluation_due: bool = False,
        size: RunSize | None = None,
        reports: Reports | None = None,
    ) -> None:
        """Remove the lines that will be written again: those of `first_step` and later, left by a run that was killed.

        `evaluation_due`: the evaluation after step `first_step` - 1 will be repeated too. `size`: to show the speed.
        `reports` gets all numbers of the lines.
        """
        self.path, self.steps, self._step = path, steps, first_step
        self._size, self._reports = size, reports
        self._losses, self._metrics = dict[str, float](), dict[str, float]()
        self._losses_of = 0  # the step of the losses, counted from 1
        self._waited = 0.0
        repeated = first_step - 1 if evaluation_due else first_step
        kept = [line for line in read_log(path) if line["step"] < (first_step if "loss" in line else repeated)]
        self._before = max((s for line in kept if isinstance(s := line.get("seconds"), int | float)), default=0.0)
        new = path.with_name(TEMPORARY + path.name)
        new.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        os.replace(new, path)
        self._file = path.open("a", encoding="utf-8")
        self._started = self._reported = self._evaluating_from = time.perf_counter()
        self._first_step = first_step
        self.console = Console(stderr=True)
        self._bar = Progress(
            TextColumn("train"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
        )
        self._view = Live(get_renderable=self._shown, console=self.console, refresh_per_second=2, transient=True)
        self._task = self._bar.add_task("train", total=steps, completed=first_step, note="")

    @override
    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._view.start()
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # the terminal was closed (SIGHUP)
            self._view.stop()
        with suppress(OSError):  # of a full disk, which `write` has reported
            self._file.close()
        if self._reports is not None:
            self._reports.close()

    @override
    def write(self, *, step: int, **values: object) -> None:
        """One line: the step, the seconds that the run has taken so far (also before it was resumed), and `values`.

        Values that are not finite become null.
        """
        seconds = self._before + time.perf_counter() - self._started
        values = {name: None if _is_nonfinite(value) else value for name, value in values.items()}
        line = {"step": step, "seconds": round(seconds, 3), **values}
        with naming(self.path):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
        numbers = {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
        if "loss" in numbers:
            self._losses, self._losses_of = numbers, step + 1
        else:
            self._metrics = numbers
        if self._reports is not None:
            self._reports.log(step, numbers)

    @override
    def sync(self) -> None:
        """Force the lines to the disk."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    @override
    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A block in which the model waits for images."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started

    @override
    def advance(self, step: int) -> None:
        """Report that `step` (counted from 0) is done."""
        self._step = step + 1
        loss = f"loss {self._losses['loss']:.3f}" if "loss" in self._losses else ""
        if loss and self._losses_of != self._step:  # losses are logged every `log_every` steps
            loss += f" (step {self._losses_of})"
        self._bar.update(self._task, completed=self._step, note=loss)
        if self._step == self._first_step + 1 or self._is_quiet():
            spent = time.perf_counter() - self._started
            left = spent / (self._step - self._first_step) * (self.steps - self._step)
            text = f"step {self._step} of {self.steps}"
            shown = [text, loss, f"about {duration(left)} left", *self._details(parts=False)]
            self._plain(", ".join(part for part in shown if part))

    @override
    def evaluated(self, images: int, total: int) -> None:
        """Report that `images` of `total` validation images are done. The metrics are computed afterwards."""
        self._bar.update(self._task, note=f"evaluating: image {images} of {total}")
        if images == 1:
            self._evaluating_from = time.perf_counter()
        text = f"evaluating after step {self._step}: image {images} of {total}"
        if images == total and time.perf_counter() - self._evaluating_from >= QUIET:
            self._plain(f"{text}, computing the metrics")
        elif self._is_quiet():
            self._plain(text)

    @override
    def log(self, text: str) -> None:
        """A status message on stderr, above the bar. A lost terminal is not an error."""
        self._reported = time.perf_counter()
        with suppress(OSError):
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _pace(self) -> str:
        """The speed so far, including the time of evaluations."""
        steps, seconds = self._step - self._first_step, time.perf_counter() - self._started
        return "" if self._size is None else speed(self._size, steps, seconds, self._waited)

    def _shown(self) -> Group:
        """What a terminal shows: the bar and the details."""
        return Group(self._bar, *(Text(line) for line in self._details(parts=True)))

    def _details(self, *, parts: bool) -> list[str]:
        """What is known beside the progress; with `parts` also the parts of the loss."""
        if self._size is None:
            return []
        return details(self._size, self._step, self._pace(), self._losses, self._metrics, parts=parts)

    def _is_quiet(self) -> bool:
        return time.perf_counter() - self._reported >= QUIET

    def _plain(self, text: str) -> None:
        if not self.console.is_terminal:
            self.log(text)


def _is_nonfinite(value: object) -> bool:
    """Whether a value is NaN or infinity, which JSON does not have."""
    return isinstance(value, float) and not math.isfinite(value)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, oldest first; empty if there is no file. Lines that were cut short or damaged are skipped."""
    if not path.is_file():
        return []
    texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [line for text in texts if (line := _parsed(text)) is not None]


def _parsed(text: str) -> dict[str, Any] | None:
    """A line of a log; None for text that is none."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and type(line.get("step")) is int else None


def seconds_per_step(path: Path) -> float | None:
    """The mean of a log, including evaluations; None if it has no times."""
    times = [
        (line["step"] + 1, time) for line in read_log(path) if isinstance(time := line.get("seconds"), int | float)
    ]
    steps, seconds = max(times, default=(1, 0.0))
    return seconds / steps if seconds else None


def damaged_lines(path: Path) -> list[int]:
    """The numbers, from 1, of the lines of a log that `read_log` skips; without a last one that a kill cut short."""
    if not path.exists():
        return []
    texts = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [number for number, text in enumerate(texts, start=1) if text.strip() and _parsed(text) is None]


def log_gap(path: Path, *, first_step: int, log_every: int, skips: bool = False) -> str:
    """What the log at `path` lacks of the steps before `first_step`; empty if it lacks nothing.

    `skips`: steps without finite losses have no line (train.nonfinite=skip), so only a missing file is a gap.
    """
    steps = [line["step"] for line in read_log(path) if "loss" in line and line["step"] < first_step]
    last = max(steps, default=-1)
    if last >= (first_step - 1) // log_every * log_every:
        return ""
    if skips and path.exists():
        return ""
    reason = "is missing" if not path.exists() else "is damaged"
    return f"{path} {reason}: its steps {last + 1} to {first_step - 1} are not in the curves"


def duration(seconds: float) -> str:
    """Seconds as hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
