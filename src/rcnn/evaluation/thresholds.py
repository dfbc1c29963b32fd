"""The best score thresholds of an evaluation: measured, and read from thresholds.json for prediction."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rcnn.arguments import as_path
from rcnn.commands import as_typed
from rcnn.data.messages import excerpt, few
from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Evaluation
from rcnn.evaluation.folder import THRESHOLDS_FILE
from rcnn.metrics import analysis
from rcnn.metrics.analysis import analysed_kind
from rcnn.metrics.choice import metric_for
from rcnn.outputs import RUN_LOG
from rcnn.prediction_arguments import require_score
from rcnn.text_files import read_json

PARTS = ("best", "last")  # the checkpoints in a run's folder
_EXPECTED = "expected the thresholds.json that `rcnn eval` writes"


def measure_thresholds(evaluation: Evaluation, dataset: Dataset) -> dict[str, Any] | None:
    """The content of thresholds.json for an evaluation of `dataset`; None for proposals, which have no classes."""
    metrics = evaluation.metrics
    kind = analysed_kind(metrics.kinds)
    if not kind:
        return None
    metric = metric_for(dataset, tuple(metrics.kinds), metrics.metric)
    ids = dataset.image_ids[: metrics.images]
    found = analysis.find_thresholds(metric, evaluation.ground_truth, evaluation.results, kind, ids)
    return {"kind": kind, **found.to_dict()}


def find_thresholds(checkpoint: Path) -> Path:
    """The newest thresholds.json in a checkpoint's or a run's folder, or in the folders directly inside it.

    For best/ or last/ of a run, also in the run's folder, but not in that of its other checkpoint.
    `rcnn train` writes one to best/, `rcnn eval RUN --data DIR --output RUN/eval` one to RUN/eval. Raises
    FileNotFoundError if there is none.
    """
    run = checkpoint.parent
    is_part = checkpoint.name in PARTS and (run / RUN_LOG).is_file()
    folders = [checkpoint, run] if is_part else [checkpoint]
    others = [run / name for name in PARTS if is_part and name != checkpoint.name]
    found = [
        path
        for folder in folders
        for pattern in ("", "*/")
        for path in folder.glob(pattern + THRESHOLDS_FILE)
        if path.parent not in others
    ]
    if not found:
        command = ("rcnn", "eval", checkpoint, "--data", "DIR", "--output")
        if checkpoint.is_dir():
            again = as_typed(*command, checkpoint / "eval")
            advice = f"{again}, or give the path of the file (--score FILE, rcnn.best_scores(FILE))"
        else:  # a name or a file: no folder may get its name
            advice = f"{as_typed(*command, 'FOLDER')}, and give that folder (--score FOLDER, rcnn.best_scores(FOLDER))"
        raise FileNotFoundError(f"{checkpoint} has no {THRESHOLDS_FILE} with the best scores; write it with: {advice}")
    return max(found, key=lambda path: path.stat().st_mtime)


def best_scores(path: str | Path) -> dict[str, float]:
    """Class name -> score threshold with the best F1, for `Predictor.predict(score=)`.

    `path`: a run, a checkpoint, the output folder of an evaluation, or a thresholds.json. Raises FileNotFoundError if
    there is no thresholds.json, ValueError for one without thresholds.
    """
    path = as_path(path, "the thresholds", "a run, a checkpoint, an evaluation or a thresholds.json, as str or Path")
    return read_thresholds(path if path.is_file() else find_thresholds(path))


def read_thresholds(path: Path, classes: Sequence[str] = ()) -> dict[str, float]:
    """Class name -> score threshold, for each of `classes` (default: all in the file).

    It is the overall threshold if the file has none for a class. Raises ValueError for a file without thresholds, or
    with thresholds of other classes only.
    """
    content = read_json(path, _EXPECTED)
    table = content.get("per_class") if isinstance(content, dict) else None
    if not isinstance(table, dict):
        raise ValueError(f"{path} has no 'per_class'; {_EXPECTED}")
    if not table:
        raise ValueError(f"{path} has no class in 'per_class'; {_EXPECTED}")
    classes = classes or tuple(table)
    if not set(classes) & table.keys():
        raise ValueError(
            f"{path} has thresholds of the classes {few(list(table))}, but the model has {few(classes)}; give the "
            "thresholds.json of an evaluation of this model"
        )
    overall = _score(content.get("overall"), f"{path}: 'overall'")
    found = {name: _score(table.get(name), f"{path}: class {name!r}") for name in classes}
    if overall is None and not any(score is not None for score in found.values()):
        raise ValueError(
            f"{path} has no threshold: no detection of that evaluation was correct; choose a number (--score, score=)"
        )
    default = overall if overall is not None else max(score for score in found.values() if score is not None)
    return {name: default if score is None else score for name, score in found.items()}


def _score(entry: Any, where: str) -> float | None:
    if entry is None:
        return None
    if not isinstance(entry, dict) or "score" not in entry:
        raise ValueError(f"{where} is {excerpt(entry)}; expected {{'score': 0.7, ...}}")
    try:
        return require_score(entry["score"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
