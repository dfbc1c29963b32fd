"""The folder of a run: what it contains, and how a command finds a run in it.

config.json    the settings of the run and where it started from (the record)
log.jsonl      one JSON object per report
curve.html     the log as charts
curve.png      the same charts as one picture
report.html    charts, evaluations, settings, and where and how the run was started
pictures/      validation images at each evaluation: IMAGE/step-N.jpg
tensorboard/   event files, if TensorBoard is installed
wandb_id.txt, mlflow_id.txt   id of the run in these trackers
held_out.txt   file names of the validation images, if they were held out from the training split
last/          a checkpoint and the state of the optimizer, to resume from
best/          the checkpoint with the best evaluation, and its score thresholds (thresholds.json)
failed.txt     the error that ended the run; removed when it is resumed
step-N/        the checkpoint after N steps, with train.keep
averaged/      the EMA of the weights, if train.ema is set and nothing is evaluated

This module does not import torch, so that a command can check the folder quickly.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.commands import as_typed
from rcnn.outputs import MARKER, REPLACED, RUN_LOG, files_of_rcnn, require_folder, require_not_in_use
from rcnn.text_files import require_regular
from rcnn.weights.files import WEIGHTS_FILE

RECORD, LOG, CURVE, PLOT, REPORT = "config.json", RUN_LOG, "curve.html", "curve.png", "report.html"
PICTURES, EVENTS = "pictures", "tensorboard"  # folders
TRACKED = ("wandb_id.txt", "mlflow_id.txt")  # ids of the run in the trackers, to continue it there
HELD_OUT = "held_out.txt"
FAILURE = "failed.txt"
CHECKPOINTS = ("last", "best", "averaged")
NAMES = (RECORD, LOG, CURVE, PLOT, REPORT, PICTURES, EVENTS, *TRACKED, HELD_OUT, FAILURE, *CHECKPOINTS)
# what to do where a run that is resumed cannot be written; it continues in its own folder only
WRITABLE = "a run is resumed in its own folder, so make it writable (owner, permissions, how its disk is mounted)"
FOLDERS = (PICTURES, EVENTS, *CHECKPOINTS)
FIELDS: dict[str, type] = {  # of the record
    "model": dict,
    "train": dict,
    "started_from": str,
    "data": str,
    "splits": list,
    "annotations": str,
    "classes": list,
}
OPTIONAL: dict[str, type] = {
    "images": str,
    "dataset_given": bool,  # the data were a Dataset, of which "data" is only the root
    "relative_boxes": bool,
    "weights": str,
    "recipe": str,
    "processes": int,
    "extra_images": int,
    "held_out": dict,
    "left_out": list,
    "data_identity": dict,
    "trained_images": dict,
    "commands": list,
}
EXPECTED: dict[type, str] = {
    dict: "an object",
    str: "a string",
    list: "a list",
    bool: "true or false",
    int: "an integer",
}


@dataclass(frozen=True, kw_only=True)
class FoundRun:
    """What a folder contains before a run writes to it."""

    record: dict[str, Any] | None  # contents of config.json; None: there is none
    checkpoints: tuple[str, ...]  # which of last/, best/ and averaged/ exist


def find_run(path: Path) -> FoundRun:
    """What `path` contains. Nothing is written.

    ValueError or FileExistsError if it contains a pipe, or files that do not belong to a run, NotADirectoryError if it
    is a file, BlockingIOError if another process writes to it.
    """
    require_folder(path)
    if not path.exists():
        return FoundRun(record=None, checkpoints=())
    require_not_in_use(path)
    if links := [name for name in NAMES if (path / name).is_symlink()]:
        raise FileExistsError(
            f"{path / links[0]} is a symbolic link, which rcnn neither follows nor replaces where it writes: put a "
            "copy of its target there, or choose another output (--output)"
        )
    for name in NAMES:
        require_regular(path / name)
    if WEIGHTS_FILE in files_of_rcnn(path):
        raise FileExistsError(f"{path} is a checkpoint; a run needs its own folder: choose another output (--output)")
    checkpoints = tuple(
        name
        for name in CHECKPOINTS
        if any((folder / WEIGHTS_FILE).exists() for folder in (path / name, path / f"{REPLACED}{name}"))
    )
    record = read_record(path / RECORD, needed=bool(checkpoints) and RECORD in files_of_rcnn(path))
    listed = set(NAMES) if record is not None and checkpoints else files_of_rcnn(path)
    foreign = [name for name in NAMES if (path / name).exists() and name not in listed]
    if foreign:
        raise FileExistsError(
            f"{path} contains {', '.join(foreign)}, which rcnn did not write there: choose another output (--output)"
        )
    for name in NAMES:
        if (path / name).exists() and (path / name).is_dir() != (name in FOLDERS):
            found, expected = ("file", "folder") if name in FOLDERS else ("folder", "file")
            raise FileExistsError(
                f"{path / name} is a {found}; expected the {expected} of a run: move it away, or choose another output "
                "(--output)"
            )
    return FoundRun(record=record, checkpoints=checkpoints)


def require_writable(path: Path) -> None:
    """PermissionError if the folder of a run that is resumed, or its list of files, cannot be written."""
    for one in (path, path / MARKER):
        if one.exists() and not os.access(one, os.W_OK):
            raise PermissionError(f"{one} cannot be written: {WRITABLE}")


def start_of_run(path: Path, start: str = "", *, needs_data: bool = True) -> tuple[str, str, Path]:
    """What the run in `path` was started with: its model or checkpoint, its recipe (or ""), and its data.

    ValueError if there is no run, if its record is damaged, or, with `needs_data`, if its data were a `Dataset`, which
    the record cannot name. `start`: how the caller starts a run there, for that message; empty: with the command.
    """
    record = read_record(path / RECORD, needed=True)
    if record is None:
        start = start or as_typed("rcnn", "train", "MODEL_OR_CHECKPOINT", "--data", "DIR", "--output", path)
        raise ValueError(f"{path} contains no run to resume; to start one: {start}")
    if needs_data and record.get("dataset_given", False):
        raise ValueError(
            f"{path} was trained on a Dataset from Python: pass data= (and validation=) again, or give the data "
            "(--data DIR)"
        )
    return record["started_from"], record.get("recipe", ""), Path(record["data"])


def is_run(path: Path) -> bool:
    """Whether `path` is the folder of a run."""
    return read_record(path / RECORD) is not None


def require_no_run(path: Path, checkpoints: Sequence[str], resume: str = "resume=True (--resume)") -> None:
    """ValueError if the run in `path` has `checkpoints`: only a run that is resumed may write there.

    `resume`: how the caller asks for that.
    """
    if checkpoints:
        raise ValueError(
            f"{path} contains a run ({listed(checkpoints)}): continue it with {resume}, or choose another "
            "output (--output)"
        )


def listed(names: Iterable[str]) -> str:
    """Folders in a message: "last/, best/"."""
    return ", ".join(f"{name}/" for name in names)


def read_record(path: Path, *, needed: bool = False) -> dict[str, Any] | None:
    """The record at `path`; None if the file is missing, damaged or not of a run.

    ValueError instead of None for a damaged file if it is `needed`.
    """
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
    for name, kind in (FIELDS | OPTIONAL).items():
        if name in record and not isinstance(record[name], kind):
            return f"expected {name} to be {EXPECTED[kind]}, got {json.dumps(record[name])[:80]}"
    for name, least in (("splits", 2), ("classes", 0)):
        values = record[name]
        if len(values) < least or not all(isinstance(value, str) for value in values):
            return f"expected {name} to be a list of {f'{least} or more ' if least else ''}names, got {values!r:.80}"
    if repeated := sorted({name for name in record["classes"] if record["classes"].count(name) > 1}):
        return f"expected each class once, got {repeated[0]!r} twice or more"
    return ""


def is_restarted() -> bool:
    """Whether torchrun started this process again after a failure, so that it continues its run."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") not in ("", "0")
