"""Where a run starts from: a named model, a config or a checkpoint, with its default training settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rcnn.models import MODELS, Detector, DetectorConfig, build_detector, model_config
from rcnn.models.zoo import unknown_model
from rcnn.training.settings import FINE_TUNING, TrainConfig
from rcnn.weights.backbone import load_backbone
from rcnn.weights.checkpoint import empty_detector, load_checkpoint, read_checkpoint
from rcnn.weights.transfer import transfer

CONFIG = "config:"  # before the name of a config that was passed, in the record of a run
FROZEN_AND_RANDOM = (
    "warning: you are training from random weights, but the backbone's batch norm is frozen. That works only with "
    "pretrained weights: `rcnn convert` reads torchvision's and Detectron2's checkpoints, and ImageNet weights for "
    "--weights. To train from random weights, set backbone.norm=bn backbone.frozen_stages=0 (and fpn.norm=bn) "
    "train.optimizer=adamw train.lr=0.002"
)


def starts_fresh(model: str) -> bool:
    """Whether a run of `model`, as its record names it, has no checkpoint to start from."""
    return model in MODELS or model.startswith(CONFIG)


def starting_config(model: str, allow: str | Sequence[str] = ()) -> DetectorConfig:
    """The config of a named model or of a checkpoint folder. ValueError if `model` is neither.

    `allow`: the user's code that a checkpoint may run, as in `load_checkpoint`.
    """
    if model in MODELS:
        return model_config(model)
    if not Path(model).exists():
        if "/" in model or "." in model:
            raise ValueError(f"{model} does not exist; expected a checkpoint folder, or a name from `rcnn models list`")
        raise ValueError(unknown_model(model))
    checkpoint = load_checkpoint(model, allow=allow)
    if checkpoint.kind == "backbone":
        raise ValueError(f"{model} contains only a backbone: give a model by its name, and weights={model} (--weights)")
    return checkpoint.config


def starting_recipe(model: str) -> TrainConfig:
    """The default training settings: the papers' for a named model, milder ones for a checkpoint."""
    return TrainConfig() if starts_fresh(model) else FINE_TUNING


def require_buildable(config: DetectorConfig, source: str = "") -> None:
    """ValueError unless a detector can be built with these settings, of the file `source` if one is named."""
    try:
        empty_detector(config)
    except ValueError as error:
        if not source:
            raise
        raise ValueError(f"the model of {source} cannot be built: {error}") from error
    except RuntimeError as error:  # sizes that torch refuses
        if "memory" in str(error) or "overflow" in str(error):
            raise
        raise ValueError(f"no model can be built with these settings: {str(error).splitlines()[0]}") from error


def build_start(
    config: DetectorConfig, classes: tuple[str, ...], *, model: str, weights: str, seed: int
) -> tuple[Detector, str]:
    """A detector before its first step, with weights from `model` or `weights`; and a line that says which."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = build_detector(config)
    if not starts_fresh(model):
        return detector, transfer(detector, read_checkpoint(model), classes)
    if weights:
        return detector, load_backbone(detector, read_checkpoint(weights), weights)
    frozen = getattr(config.backbone, "norm", "") == "frozen_bn"
    return detector, FROZEN_AND_RANDOM if frozen else "starting from random weights"
