"""The public function `rcnn.push_to_hub`."""

from __future__ import annotations

from pathlib import Path

from rcnn.training.found_run import LOG
from rcnn.training.log import read_log
from rcnn.weights.hub import push

METRICS = ("bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "keypoints_AP")  # of log.jsonl, shown on the card


def push_to_hub(run: str | Path, repository: str, *, private: bool = False) -> str:
    """Upload a checkpoint or a run (its best) to `owner/name` on the Hugging Face Hub; returns its address.

    The repository is created if it does not exist, and gets a model card with the classes, the metrics of the best
    evaluation of the run, and how to use it. Its name is then "hf:owner/name" everywhere. Needs rcnn[hub] and a login
    (`hf auth login`, or HF_TOKEN).

    Raises ValueError if the repository contains other files, ConnectionError if it cannot be written.
    """
    return push(run, repository, metrics=best_metrics(Path(run)), private=private)


def best_metrics(run: Path) -> dict[str, float]:
    """The metrics of the evaluation of `run` with the highest mask AP (without masks: box AP); empty without one."""
    log = run / LOG
    evaluated = [line for line in read_log(log) if "bbox_AP" in line] if log.is_file() else []
    if not evaluated:
        return {}
    best = max(evaluated, key=lambda line: line.get("segm_AP", line["bbox_AP"]))
    return {name: float(best[name]) for name in METRICS if name in best}
