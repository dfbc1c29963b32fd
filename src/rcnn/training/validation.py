"""Evaluation during training: the metrics, and the one that chooses best/."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from rcnn.data.messages import few
from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import ImageResults, evaluate_dataset, failure_warnings, measured_kinds
from rcnn.evaluation.plan import Plan
from rcnn.evaluation.thresholds import measure_thresholds
from rcnn.metrics.choice import names_of
from rcnn.metrics.tables import number
from rcnn.models import Detector, DetectorConfig
from rcnn.predictor import Predictor
from rcnn.runtime.processes import ALONE, Processes
from rcnn.training.schedule import last_decay
from rcnn.training.settings import TrainConfig

KINDS = ("bbox", "segm", "keypoints", "proposals")
SHOWN = ("AP", "AP50", "AR100", "AR1000")  # metrics in a line of the progress
LOSS = "validation_loss"  # key of the loss on the first validation set, with train.validation_loss
SINCE_BEST = "since_best"  # key in the log: evaluations since the best one; 0 until a value is above 0
THRESHOLDS = "thresholds"  # key of the score thresholds with the best F1 on the first validation split
OTHERS = "other_splits"  # key of the metrics on the validation splits after the first
Metrics = dict[str, Any]  # {"bbox": {"AP": .., "AP50": ..}, "segm": {..}, ...}


def evaluate_detector(
    detector: Detector,
    validations: Sequence[Dataset],
    settings: TrainConfig,
    device: torch.device,
    after_image: Callable[[int, int], None],
    log: Callable[[str], object],
    processes: Processes = ALONE,
    best: float | None = None,
) -> Metrics:
    """The metrics of `detector` on the first of `validations`; the key OTHERS has those on the others, by split.

    The key THRESHOLDS has the content of thresholds.json for the first validation set, if the value of `train.best` is
    greater than `best`.

    `after_image` receives the number of images done and of all images. `log` receives a warning for each image that
    cannot be evaluated; it counts as an image without detections. The `processes` share the images; all of them get
    the metrics.
    """
    done, total = 0, sum(map(len, validations))

    def on_image(image: ImageResults) -> None:
        nonlocal done
        done += 1
        if image.error:
            log(f"warning: {image.error}")
        after_image(done, total)

    first, *others = validations
    predictor = Predictor(detector, classes=first.classes, device=str(device), padding=settings.padding)
    measured = partial(_measure, predictor, settings=settings, processes=processes, on_image=on_image, log=log)
    metrics = measured(first, new_best=lambda metrics: is_better(choose(metrics, settings.best), best))
    return metrics | {OTHERS: {other.split: measured(other) for other in others}} if others else metrics


def _measure(
    predictor: Predictor,
    validation: Dataset,
    *,
    settings: TrainConfig,
    processes: Processes,
    on_image: Callable[[ImageResults], None],
    log: Callable[[str], object],
    new_best: Callable[[Metrics], bool] = lambda metrics: False,
) -> Metrics:
    workers = max(1, settings.workers)
    evaluation = evaluate_dataset(
        predictor,
        validation,
        workers=workers,
        metric=settings.chosen_metric,
        on_image=on_image,
        processes=processes,
    )
    for line in failure_warnings(evaluation.failed, len(validation)):  # other warnings are in the plan of the run
        log(f"warning: split {validation.split}: {line}")
    metrics = evaluation.metrics.to_dict()
    if new_best(metrics):
        metrics[THRESHOLDS] = processes.from_first(partial(measure_thresholds, evaluation, validation))
    return metrics


def require_measured(best: str, config: DetectorConfig, plan: Plan | None = None) -> None:
    """ValueError unless `best` (train.best) is empty, or a metric of a detector of `config` that `plan` measures."""
    metric = "coco" if plan is None else plan.metric
    names = [f"{kind}.{name}" for kind in measured_kinds(config) for name in names_of(metric, kind)]
    if best and best not in names:
        near = difflib.get_close_matches(best, names, n=3) or names[:1]
        raise ValueError(f"train.best={best} is not a metric of this model; expected e.g. {' or '.join(near)}")
    if best and plan is not None and best.partition(".")[0] not in plan.kinds:
        raise ValueError(
            f"train.best={best} cannot be measured: {'; '.join(plan.warnings)}. Set train.best=bbox.AP; a run that is "
            "resumed keeps its train.best, so restore its validation set"
        )


def chosen_metric(metrics: Metrics, key: str) -> str:
    """`key`; if it is empty, segm.AP if masks were measured, else bbox.AP."""
    return key or ("segm.AP" if "segm" in metrics else "bbox.AP")


def logged_choice(line: Mapping[str, object]) -> str:
    """`chosen_metric` of the evaluation in a line of the log, without a key; "AP" if the line has none."""
    return next((f"{kind}.AP" for kind in ("segm", "bbox") if f"{kind}_AP" in line), "AP")


def choose(metrics: Metrics, key: str) -> float | None:
    """The value of a metric such as "segm.AP" (empty: segm.AP if masks were measured, else bbox.AP).

    None if there is no ground truth to measure it on. ValueError for a metric that was not measured.
    """
    key = chosen_metric(metrics, key)
    kind, _, name = key.partition(".")
    if name not in metrics.get(kind, {}):
        known = [f"{k}.{n}" for k in KINDS if k in metrics for n in metrics[k]]
        raise ValueError(f"train.best={key} was not measured; expected one of {few(known)}")
    return metrics[kind][name]


def is_better(value: float | None, best: float | None) -> bool:
    """Whether `value` is a new best; None: not measured."""
    return value is not None and (best is None or value > best)


def ends_run(evaluated: int, since_best: int, settings: TrainConfig) -> bool:
    """Whether `since_best` evaluations without improvement end a run (`train.patience`; 0: never).

    `evaluated`: the number of steps before the last evaluation. It follows steps at the lowest learning rate: the decay
    usually improves a model that no longer gets better.
    """
    return 0 < settings.patience <= since_best and evaluated > last_decay(settings)


def flatten(metrics: Metrics) -> dict[str, float | None]:
    """The metrics of an evaluation as a line of the log: {"bbox_AP": .., "segm_AP50": .., "val2/bbox_AP": ..}."""
    flat = {f"{kind}_{name}": value for kind in KINDS for name, value in metrics.get(kind, {}).items()}
    flat |= {LOSS: metrics[LOSS]} if LOSS in metrics else {}
    for split, others in metrics.get(OTHERS, {}).items():
        flat |= {f"{split}/{key}": value for key, value in flatten(others).items()}
    return flat


def main_metrics(metrics: Metrics) -> str:
    """The main metrics on one line; "-" for those without ground truth."""
    parts: list[str] = []
    for kind in KINDS:
        values = metrics.get(kind, {})
        names = [name for name in SHOWN if name in values and (name.startswith("AP") or "AP" not in values)]
        if names:
            parts.append(f"{kind} " + " ".join(f"{name} {number(values[name])}" for name in names))
    parts += [f"validation loss {number(metrics[LOSS])}"] if LOSS in metrics else []
    others = [f"{split}: {main_metrics(values)}" for split, values in metrics.get(OTHERS, {}).items()]
    return "; ".join([", ".join(parts), *others])
