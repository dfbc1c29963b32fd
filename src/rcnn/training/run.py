"""A whole training run, from the name of a model and a folder of data to a folder of results."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rcnn import __version__
from rcnn.data import open_dataset
from rcnn.data import splits as splits_of
from rcnn.data.loading import training_batches
from rcnn.data.records import Dataset
from rcnn.data.skeletons import require_names
from rcnn.drawing.charts import write_curve, write_plot
from rcnn.evaluation.evaluate import evaluate_dataset, measured_kinds
from rcnn.metrics.coco import METRICS
from rcnn.models import MODELS, Detector, DetectorConfig, build_detector, model_config
from rcnn.models.overrides import config_from_dict, config_to_dict, override
from rcnn.predictor import Predictor
from rcnn.runtime.devices import choose_device
from rcnn.training.engine import Metrics, Outcome, Run, train
from rcnn.training.keypoints import describe_keypoints, keypoints_of
from rcnn.training.log import read_log
from rcnn.training.settings import FINE_TUNING, TrainConfig, split_overrides
from rcnn.weights.backbone import adopt_backbone, load_backbone
from rcnn.weights.checkpoint import load_checkpoint, transfer

Say = Callable[[str], object]
RECORD, LOG = "config.json", "log.jsonl"  # of a run: its settings, and what happened
MOST_WARNINGS = 10  # lines about a data set, before the rest are counted
NO_SPLIT = "none"  # the split to evaluate on, where nothing is to be evaluated

FROZEN_AND_RANDOM = (
    "warning: the weights are random and the backbone's norms frozen, as trained weights want them. `rcnn convert` "
    "makes a checkpoint to start from of torchvision's or Detectron2's weights, and a backbone for --weights of "
    "ImageNet's; from nothing, train with "
    "backbone.norm=bn backbone.frozen_stages=0 (and fpn.norm=bn) train.optimizer=adamw train.lr=0.002"
)


@dataclass(frozen=True)
class _Recipe:
    """Gives the training settings their first word, so that an error names `train.steps` as the user wrote it."""

    train: TrainConfig = field(default_factory=TrainConfig)


def starting_config(model: str) -> DetectorConfig:
    """The config of a named model or of a checkpoint folder; a ValueError if it is neither."""
    if model in MODELS:
        return model_config(model)
    if not Path(model).exists():
        if "/" in model or "." in model:
            raise ValueError(f"{model} does not exist: wanted a checkpoint folder, or a name from `rcnn models list`")
        return model_config(model)
    checkpoint = load_checkpoint(model)
    if checkpoint.kind == "backbone":
        raise ValueError(f"{model} holds a backbone alone: give a model by name, and --weights {model}")
    return checkpoint.config


def starting_recipe(model: str) -> TrainConfig:
    """Training settings where none are given: the papers' for a named model, milder ones for a checkpoint."""
    return TrainConfig() if model in MODELS else FINE_TUNING


def run_training(
    model: str,
    data: Path,
    output: Path,
    overrides: Sequence[str] = (),
    *,
    settings: TrainConfig | None = None,
    splits: tuple[str, str] = ("", ""),
    resume: bool = False,
    device: str = "auto",
    weights: str = "",
    annotations: str = "",
    say: Say = print,
) -> Outcome:
    """Train `model` (a name, or a checkpoint folder) on `data`; a named model's backbone begins as that in `weights`.

    `output` gets config.json, log.jsonl, curve.html, last/ and best/. `overrides` are KEY=VALUE words, of the model and
    of training. A run that is resumed keeps its own settings, on which `overrides` may improve (train.steps=2000).
    `splits` are those to learn and to evaluate on; empty ones are found by their names. `annotations` as in
    `open_dataset`.
    """
    record = output / RECORD
    if resume and not record.exists():
        raise FileNotFoundError(f"{record} does not exist: there is no run to resume in {output}; leave --resume out")
    if not resume and any((output / name).exists() for name in ("last", "last.old", "best")):
        raise ValueError(f"{output} holds a run: --resume goes on with it; for another, give another --output")
    before = json.loads(record.read_text(encoding="utf-8")) if resume else None
    if before is not None and model != before["started_from"]:
        say(f"going on with {output}, which was started from {before['started_from']}, not {model}")
    model_words, train_words = split_overrides(overrides)

    annotations = annotations if before is None else before.get("annotations", "")
    learn, check = choose_splits(data, splits if before is None else tuple(before["splits"]), annotations)
    start = starting_config(model) if before is None else config_from_dict(before["model"])
    wanted = override(start, model_words).keypoint  # words may give a model keypoints: keypoint={}
    opened = partial(
        open_dataset,
        data,
        keypoints=wanted is not None,
        one_class=override(start, model_words).proposals_only,
        annotations=annotations,
    )
    dataset = opened(learn, classes=None if before is None else before["classes"])
    validation = opened(check, classes=dataset.classes) if check != NO_SPLIT else None
    if before is None:
        if wanted is not None:
            start = replace(start, keypoint=keypoints_of(dataset, wanted))
            model_words = [word for word in model_words if not word.startswith("keypoint=")]
        config = override(replace(start, num_classes=len(dataset.classes)), model_words)
        recipe = override(_Recipe(settings or starting_recipe(model)), train_words)
    else:
        config = override(start, model_words)
        recipe = override(_Recipe(config_from_dict(before["train"], TrainConfig)), train_words)
    settings = recipe.train
    if config.num_classes != len(dataset.classes):
        raise ValueError(f"num_classes={config.num_classes}, but {data} has {len(dataset.classes)}: leave it out")
    require_measured(settings.best, config)
    if weights and model not in MODELS:
        raise ValueError(f"--weights {weights}: {model} has weights of its own; give a model by name, or leave it out")
    backbone = load_checkpoint(weights) if weights and before is None else None
    if backbone is not None:
        config = adopt_backbone(config, backbone, weights, model_words)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        detector = build_detector(config)
    if before is None and model not in MODELS:
        say(transfer(detector, load_checkpoint(model), dataset.classes))
    elif backbone is not None:
        say(load_backbone(detector, backbone, weights))
    elif before is None and getattr(config.backbone, "norm", "") == "frozen_bn":
        say(FROZEN_AND_RANDOM)
    detector.to(choose_device(device))

    started_from = model if before is None else before["started_from"]
    about = {"started_from": started_from, "data": str(data), "splits": [learn, check], "annotations": annotations}
    about |= {"weights": weights} if weights else {}
    recorded = {"model": config_to_dict(config), "train": config_to_dict(settings)} | about
    output.mkdir(parents=True, exist_ok=True)
    write_json(record, recorded | {"classes": list(dataset.classes)})
    for line in describe_run(config, settings, dataset, validation):
        say(line)

    masks = "bitmap" if config.fcis is not None else None if config.mask is None else config.mask.target
    crowds = config.rpn.legacy.crowd_ioa < 1
    batches = partial(training_batches, dataset, config.input, settings, masks=masks, crowds=crowds)
    if config.keypoint is not None:
        for known in (dataset, validation):
            if known is not None:
                require_names(known, config.keypoint.names)
        batches = partial(batches, keypoints=True, pairs=config.keypoint.flip_pairs or None)
    evaluate = None if validation is None else partial(measure, validation, settings, device)
    provenance = about | {"rcnn": __version__, "torch": torch.__version__, "train": config_to_dict(settings)}
    run = Run(folder=output, classes=tuple(dataset.classes), provenance=provenance)
    try:
        return train(detector, batches, settings, run, evaluate=evaluate, resume=resume)
    finally:
        if (output / LOG).exists():
            lines = read_log(output / LOG)
            write_curve(output / "curve.html", lines, title=f"Training {output.name}")
            write_plot(output / "curve.png", lines)


def write_json(path: Path, value: Any) -> None:
    """`path` holds `value`, or what it held before: nothing between, whenever this is broken off."""
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(new, path)


def require_measured(best: str, config: DetectorConfig) -> None:
    """A ValueError unless train.best is empty or names something that an evaluation of such a detector measures."""
    kinds = measured_kinds(config)
    names = [f"{kind}.{name}" for kind in kinds for name in METRICS[kind]]
    if best and best not in names:
        near = difflib.get_close_matches(best, names, n=3) or names
        raise ValueError(f"train.best={best}: want what is measured here, such as {' or '.join(near)}")


def measure(validation: Dataset, settings: TrainConfig, device: str, detector: Detector) -> Metrics:
    """What COCO's metrics say of `detector` as it is now."""
    predictor = Predictor(detector, classes=validation.classes, device=device, padding=settings.padding)
    return evaluate_dataset(predictor, validation, workers=max(1, settings.workers)).metrics.to_dict()


def choose_splits(data: Path, wanted: tuple[str, ...], annotations: str = "") -> tuple[str, str]:
    """Splits of `data` to learn and to evaluate on (NO_SPLIT: on none): those `wanted`, else by their names."""
    there = splits_of(data, annotations)
    learn, check = wanted
    if not learn:
        named = [name for name in there if name.startswith("train")]
        if not named and len(there) != 1:
            raise ValueError(f"{data} has splits {', '.join(there)}, none of them train...: say which with --split")
        learn = (named or there)[0]
    if not check:
        check = next((name for name in there if name.startswith("val") and name != learn), NO_SPLIT)
    return learn, check


def describe_run(
    config: DetectorConfig, settings: TrainConfig, dataset: Dataset, validation: Dataset | None
) -> list[str]:
    """What is going to happen, for people: the data, every setting, and how the learning rate was scaled."""
    effective = settings.images_per_step()
    passes = settings.steps * effective / max(1, len(dataset))
    warnings = [line for known in (dataset, validation) if known is not None for line in known.warnings]
    if len(warnings) > MOST_WARNINGS:
        warnings = [*warnings[:MOST_WARNINGS], f"and {len(warnings) - MOST_WARNINGS} more such lines"]
    evaluated = f"evaluated on {len(validation)} ({validation.split})" if validation is not None else "never evaluated"
    return [
        *warnings,
        f"{config.name}: {config.num_classes} classes, learning {len(dataset)} images ({dataset.split}), {evaluated}",
        f"train: {' '.join(f'{key}={value}' for key, value in config_to_dict(settings).items())}",
        f"learning rate {settings.scaled_lr():g} = {settings.lr:g} x {effective} images a step / "
        f"{settings.reference_batch}; {settings.steps} steps are {passes:.1f} passes over the data",
        *(describe_keypoints(dataset, config.keypoint) if config.keypoint is not None else ()),
    ]
