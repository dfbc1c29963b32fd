"""The folder of a run: what it contains, who may write to it, and how a run is found in it again.

config.json    the settings of the run and where it started from (the record)
log.jsonl      one JSON object per report
curve.html     the log as charts
curve.png      the same as one picture
report.html    charts, evaluations, settings, and where and how the run was started
tensorboard/   event files, with train.trackers=[tensorboard]
wandb_id.txt, mlflow_id.txt   the run there, with these trackers
held_out.txt   file names of the validation images, if they were held out from the training split
last/          a checkpoint and the state of the optimizer, to resume from
best/          the checkpoint with the best evaluation, and its score thresholds (thresholds.json)
step-N/        the checkpoint after N steps, with train.keep
averaged/      the EMA of the weights, if train.ema is set and nothing is evaluated
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from rcnn.evaluation.folder import THRESHOLDS_FILE
from rcnn.models import Detector, DetectorConfig
from rcnn.outputs import REPLACED, OutputFolder, files_of_rcnn, recover_folder, replace_folder
from rcnn.training.sharding import divided_state, whole_state
from rcnn.training.state import STATE_FILE, TrainState, read_state, write_state
from rcnn.weights.checkpoint import (
    WEIGHTS_FILE,
    load_state,
    nonfinite,
    read_checkpoint,
    require_digest,
    write_checkpoint,
)

RECORD, LOG, CURVE, PLOT, REPORT = "config.json", "log.jsonl", "curve.html", "curve.png", "report.html"
EVENTS = "tensorboard"  # folder
TRACKED = ("wandb_id.txt", "mlflow_id.txt")  # the ids of the run there, to continue it
HELD_OUT = "held_out.txt"
CHECKPOINTS = ("last", "best", "averaged")
NAMES = (RECORD, LOG, CURVE, PLOT, REPORT, EVENTS, *TRACKED, HELD_OUT, *CHECKPOINTS)
FIELDS = {  # of the record
    "model": dict,
    "train": dict,
    "started_from": str,
    "data": str,
    "splits": list,
    "annotations": str,
    "classes": list,
}
OPTIONAL = {"images": str, "relative_boxes": bool, "weights": str, "recipe": str, "processes": int}


class RunFolder:
    """The folder of a run while it is written, locked against other processes. Use as a context manager."""

    def __init__(
        self, path: Path, *, classes: tuple[str, ...], provenance: Mapping[str, Any], writes: bool = True
    ) -> None:
        """`classes` and `provenance` go into each checkpoint. Errors as for `OutputFolder`.

        `writes`: false where another process of the run writes: then methods that write have no effect.
        """
        self.path, self.classes, self.provenance = path, classes, provenance
        self._output = OutputFolder(path) if writes else None
        for name in CHECKPOINTS if writes else ():
            recover_folder(path / name)  # of a process that was killed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._output is not None:
            self._output.__exit__(kind, error, trace)

    def claim(self, *, resumes: bool) -> None:
        """Take the names of a run's files: for a run that `resumes`, those that exist are its own.

        FileExistsError for a new run if another process has trained here since this one was planned.
        """
        if self._output is None:
            return
        there = [name for name in CHECKPOINTS if (self.path / name / WEIGHTS_FILE).exists()]
        if there and not resumes:
            raise FileExistsError(
                f"{self.path}/{there[0]} was written by another rcnn process while this one started: choose another "
                "output (--output)"
            )
        for name in NAMES:
            self._output.adopt(name) if resumes else self._output.claim(name)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write config.json."""
        if self._output is not None:
            self._output.write_json(RECORD, record, indent=2, durable=True)

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name`."""
        if self._output is not None:
            self._output.write_text(name, text)

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Replace the file `name` by what `write` writes to a temporary path."""
        if self._output is not None:
            with self._output.writing(name) as path:
                write(path)

    def save(self, name: str, detector: Detector, *, thresholds: Mapping[str, Any] | None = None) -> None:
        """Replace the checkpoint `name` by one of `detector`. All processes call it together.

        `thresholds`: the content of its thresholds.json. FileExistsError if it is a file of the user.
        """
        weights = whole_state(detector.state_dict())
        if self._output is not None and name not in CHECKPOINTS:
            self._output.claim(name)

        def fill(folder: Path) -> None:
            self._write_weights(folder, detector.config, weights)
            if thresholds is not None:
                (folder / THRESHOLDS_FILE).write_text(json.dumps(thresholds, indent=2) + "\n", encoding="utf-8")

        self._replace(name, fill)

    def save_state(self, name: str, state: TrainState) -> None:
        """Replace the checkpoint `name` by one from which a run can be resumed. All processes call it together."""
        weights, values = whole_state(state.detector.state_dict()), state.contents()

        def fill(folder: Path) -> None:
            write_state(values, folder)
            self._write_weights(folder, state.detector.config, weights)

        self._replace(name, fill)

    def _write_weights(self, folder: Path, config: DetectorConfig, weights: Mapping[str, Tensor]) -> None:
        write_checkpoint(folder, weights, config, self.classes, self.provenance)

    def _replace(self, name: str, fill: Callable[[Path], object]) -> None:
        if self._output is not None:
            replace_folder(self.path / name, fill)

    def load_last(self, state: TrainState) -> Mapping[str, Any]:
        """Restore `state` from last/, and return the provenance of last/. ValueError if they do not fit."""
        last = self.path / "last"
        checkpoint = read_checkpoint(last)
        if (last / STATE_FILE).exists():
            require_digest(last / STATE_FILE, checkpoint.files)
        values = read_state(last)
        load_state(state.detector, divided_state(checkpoint.state, state.detector), str(last))
        if problem := nonfinite(checkpoint.state):
            raise ValueError(f"{last} has {problem}, so it cannot be trained: {_new_run(last.parent / 'best')}")
        try:
            state.restore(values)
        except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"{last / STATE_FILE} does not fit the weights beside it ({error}): {_new_run(last)}"
            ) from error
        return checkpoint.provenance


def _new_run(checkpoint: Path) -> str:
    return f"restore it from a copy, or start a new run: rcnn train {checkpoint} --data DATA --output NEW_RUN"


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """What a folder contains before a run writes to it."""

    record: dict[str, Any] | None  # contents of config.json; None: there is none
    checkpoints: tuple[str, ...]  # which of last/, best/ and averaged/ exist


def find_run(path: Path) -> FoundRun:
    """What `path` contains; reads only. ValueError or FileExistsError if it contains files that are not a run's."""
    if not path.exists():
        return FoundRun(record=None, checkpoints=())
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is a file; expected a folder for the run: choose another output (--output)")
    if WEIGHTS_FILE in files_of_rcnn(path):
        raise FileExistsError(f"{path} is a checkpoint; a run needs its own folder: choose another output (--output)")
    checkpoints = tuple(
        name
        for name in CHECKPOINTS
        if any((folder / WEIGHTS_FILE).exists() for folder in (path / name, path / f"{REPLACED}{name}"))
    )
    record = _read_record(path / RECORD, needed=bool(checkpoints) and RECORD in files_of_rcnn(path))
    listed = set(NAMES) if record is not None and checkpoints else files_of_rcnn(path)
    foreign = [name for name in NAMES if (path / name).exists() and name not in listed]
    if foreign:
        raise FileExistsError(
            f"{path} contains {', '.join(foreign)}, which rcnn did not write there: choose another output (--output)"
        )
    return FoundRun(record=record, checkpoints=checkpoints)


def _read_record(path: Path, *, needed: bool) -> dict[str, Any] | None:
    """The record at `path`; None if there is none, or if it is damaged or not a run's. ValueError then if `needed`."""
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        problem = _problem(record)
    except (ValueError, RecursionError) as error:
        record, problem = None, f"not JSON: {error}"
    if problem and needed:
        raise ValueError(
            f"{path} is not the record of a run ({problem}). Restore it, or start a new run from {path.parent}/last "
            "with another output (--output)"
        )
    return None if problem else record


def _problem(record: Any) -> str:
    """What is wrong with the contents of a config.json; empty if nothing is."""
    if not isinstance(record, dict):
        return f"expected an object, got {type(record).__name__}"
    if missing := [name for name in FIELDS if name not in record]:
        return f"missing: {', '.join(missing)}"
    wrong = [name for name, kind in FIELDS.items() if not isinstance(record[name], kind)]
    wrong += [name for name, kind in OPTIONAL.items() if name in record and not isinstance(record[name], kind)]
    if wrong:
        return f"unexpected values of {', '.join(wrong)}"
    classes, names = record["classes"], [*record["splits"], *record["classes"]]
    sound = all(isinstance(name, str) for name in names) and len(set(classes)) == len(classes)
    if len(record["splits"]) < 2 or not sound:
        return "unexpected values of splits or classes"
    return ""
