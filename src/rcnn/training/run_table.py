"""A table of runs with the model, the progress and the best result of each (`rcnn runs DIR`)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.arguments import as_path
from rcnn.models.overrides import config_from_dict
from rcnn.outputs import files_of_rcnn, require_not_in_use
from rcnn.training.found_run import FAILURE, FIELDS, LOG, RECORD
from rcnn.training.log import read_log
from rcnn.training.run_data import NO_SPLIT
from rcnn.training.settings import TrainConfig
from rcnn.training.validation import SINCE_BEST, ends_run

ENDING = ("steps", "patience", "milestones", "cosine")  # the training settings that decide when a run ends


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run. Average precision is in 0..1, the best of all evaluations; None: not measured."""

    folder: str  # relative to the folder that was searched
    model: str
    data: str
    step: int  # of the last line of the log, from 1; 0: none
    steps: int
    hours: float  # of training
    evaluated: bool  # after the last step, or the run has no validation set
    stopped_early: bool  # by train.patience
    running: bool  # a process writes to the folder now
    failure: str  # first line of the error that ended the run; empty: none
    loss: float | None  # the last
    box: float | None
    mask: float | None
    keypoints: float | None

    @property
    def state(self) -> str:
        """`finished`, `early` (stopped early), `starting`, or `running`, `stopped`, `failed` with the progress in %."""
        if self.running and not self.step:
            return "starting"
        done = self.step >= self.steps and self.evaluated
        if not self.running and not self.failure and (done or self.stopped_early):
            return "finished" if done else "early"
        what = "running" if self.running else "failed" if self.failure else "stopped"
        return f"{what} {100 * self.step // max(1, self.steps)} %"


def list_runs(folder: str | Path = "runs") -> list[RunRow]:
    """The training runs in `folder` and below, ordered by the last change of their logs.

    Each has `folder`, `model`, `data`, `step`, `steps`, `state`, `failure` (why it failed), `hours`, `loss`, and the
    best AP of all its evaluations, in 0..1 (`box`, `mask`, `keypoints`; None if it was not measured). Raises
    FileNotFoundError without a folder.
    """
    folder = as_path(folder, "the folder of the runs")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; expected one with runs of `rcnn train`, e.g. runs")
    return [_row(folder, *run) for run in sorted(_records(folder), key=lambda item: _last(item[0]))]


def _records(folder: Path) -> Iterator[tuple[Path, dict[str, Any], TrainConfig]]:
    """The folders of runs, with their records and the settings that decide when they end.

    A checkpoint also has a config.json, but without these fields.
    """
    for path in folder.rglob(RECORD):
        if not path.is_file():  # a pipe would never end
            continue
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if not isinstance(record, dict) or not all(isinstance(record.get(name), kind) for name, kind in FIELDS.items()):
            continue
        try:
            ending = {name: value for name, value in record["train"].items() if name in ENDING}
            settings = config_from_dict(ending, TrainConfig)
        except ValueError:
            continue
        yield path.parent, record, settings


def _last(run: Path) -> float:
    """The time when the log of a run last changed, seconds; 0 without a log."""
    log = run / LOG
    return log.stat().st_mtime if log.exists() else 0.0


def _is_running(run: Path) -> bool:
    """Whether a process writes to the folder of a run."""
    try:
        require_not_in_use(run)
    except BlockingIOError:
        return True
    return False


def _failure(run: Path) -> str:
    """The first line of the error that ended a run, as rcnn wrote it; empty if none did."""
    with suppress(OSError):
        if FAILURE not in files_of_rcnn(run):  # a file of the user
            return ""
        return (run / FAILURE).read_text(encoding="utf-8", errors="replace").strip().partition("\n")[0]
    return ""


def _row(folder: Path, run: Path, record: dict[str, Any], settings: TrainConfig) -> RunRow:
    lines = read_log(run / LOG)
    losses = [line["loss"] for line in lines if isinstance(line.get("loss"), int | float)]
    seconds = [line["seconds"] for line in lines if isinstance(line.get("seconds"), int | float)]
    step = max((line["step"] + 1 for line in lines), default=0)
    evaluations = [(line["step"] + 1, line[SINCE_BEST]) for line in lines if type(line.get(SINCE_BEST)) is int]
    evaluated, since_best = evaluations[-1] if evaluations else (0, 0)
    running = _is_running(run)
    return RunRow(
        folder=run.relative_to(folder).as_posix(),
        model=str(record["model"].get("name", "?")),
        data=record["data"],
        step=step,
        steps=settings.steps,
        evaluated=evaluated >= step or (record.get("held_out") is None and record["splits"][1:] == [NO_SPLIT]),
        hours=max(seconds, default=0.0) / 3600,
        stopped_early=ends_run(evaluated, since_best, settings),
        running=running,
        failure="" if running else _failure(run),
        loss=losses[-1] if losses else None,
        box=_best(lines, "bbox_AP"),
        mask=_best(lines, "segm_AP"),
        keypoints=_best(lines, "keypoints_AP"),
    )


def _best(lines: Sequence[dict[str, Any]], field: str) -> float | None:
    return max((line[field] for line in lines if isinstance(line.get(field), int | float)), default=None)
