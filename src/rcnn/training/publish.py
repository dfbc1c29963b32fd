"""The public function `rcnn.push_to_hub`."""

from __future__ import annotations

from pathlib import Path

from rcnn.arguments import CHECKPOINT, as_path
from rcnn.training.found_run import LOG, RECORD, read_record
from rcnn.training.log import read_log
from rcnn.training.validation import SINCE_BEST
from rcnn.weights.hub import push

METRICS = ("bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "keypoints_AP")  # of log.jsonl, shown on the card


def push_to_hub(run: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a checkpoint or a run (its best) to `owner/name` on the Hugging Face Hub; returns its address.

    The repository is created if it does not exist, and gets a model card with the classes, the metrics of the best
    evaluation of the run, and how to use it. Its name is then "hf:owner/name" everywhere. Needs rcnn[hub] and a login
    (`hf auth login`, or HF_TOKEN).

    Raises ValueError if the repository contains other files, ConnectionError if it cannot be written.
    """
    return push(run, repository, metrics=best_metrics(as_path(run, "the checkpoint", CHECKPOINT)), private=private)


def best_metrics(run: Path) -> dict[str, float]:
    """The metrics of the evaluation of `run` that wrote best/; empty without one."""
    log = run / LOG
    if not log.is_file():
        return {}
    lines, record = read_log(log), read_record(run / RECORD)
    chosen = "" if record is None else str(record["train"].get("best") or "").replace(".", "_")
    values = [(line, line.get(chosen or ("segm_AP" if "segm_AP" in line else "bbox_AP"))) for line in lines]
    measured = [(line, value) for line, value in values if value is not None]
    if not measured:
        return {}
    wrote = [line for line, _ in measured if line.get(SINCE_BEST) == 0]  # else of another version
    best = wrote[-1] if wrote else max(measured, key=lambda one: one[1])[0]
    return {name: float(best[name]) for name in METRICS if best.get(name) is not None}
