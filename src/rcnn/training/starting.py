"""Where a run starts from: a named model, a config or a checkpoint, and the first weights of a named model.

A named model starts from the published COCO weights of that model; if there are none, or the settings change its
layers, from ImageNet weights of its backbone; otherwise from random weights. `--weights` chooses other weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from rcnn.data.messages import close_to
from rcnn.models import MODELS, Detector, DetectorConfig, build_detector, model_config
from rcnn.models.overrides import override
from rcnn.models.zoo import lite, unknown_model
from rcnn.text_files import as_given, missing_text
from rcnn.training.settings import FINE_TUNING, FROM_SCRATCH, LITE, PREFIX, TrainConfig
from rcnn.weights.backbone import adopt_backbone, load_backbone
from rcnn.weights.catalogue.cache import is_available
from rcnn.weights.catalogue.entry import Entry
from rcnn.weights.catalogue.names import (
    CAFFE,
    SCRATCH,
    default_entry,
    find_entry,
    imagenet_entry,
    is_weight_name,
)
from rcnn.weights.checkpoint import Checkpoint, empty_detector, load_checkpoint, nonfinite, read_checkpoint
from rcnn.weights.differences import different_layers
from rcnn.weights.hub import is_hub_name
from rcnn.weights.transfer import transfer

FROZEN = ("frozen_stages", "frozen_blocks", "frozen_layers")  # settings of backbones: numbers of parts at the start
CONFIG = "config:"  # before the name of a config that was passed, in the record of a run
COMPACT = "_compact"  # end of the names of models that are trained from random weights in minutes
NO_WEIGHTS = "none"  # value of --weights: random weights
IMAGENET = "imagenet"  # value of --weights: the ImageNet weights of the model's backbone


def starts_fresh(model: str) -> bool:
    """Whether a run of `model`, as its record names it, has no checkpoint to start from."""
    return model in MODELS or model.startswith(CONFIG)


def first_weights(model: str, weights: str) -> str:
    """The weights before the first step, in words; `model` and `weights` as the record of the run names them."""
    return weights or ("random" if starts_fresh(model) else model)


def starting_config(model: str, allow: str | Sequence[str] = ()) -> DetectorConfig:
    """The config of a named model or of a checkpoint folder. ValueError if `model` is neither.

    `allow`: the user's code that a checkpoint may run, as in `load_checkpoint`.
    """
    if model in MODELS:
        return model_config(model)
    if not (Path(model).exists() or is_weight_name(model) or is_hub_name(model)):
        if "/" in model or "." in model:
            raise ValueError(
                f"{as_given(model)} {missing_text(Path(model))}; expected a checkpoint folder, or a name from `rcnn "
                "models list`"
            )
        raise ValueError(unknown_model(model))
    named = is_weight_name(model) and not Path(model).exists()
    only_backbone = named and find_entry(model).kind == "backbone"  # known before a download
    checkpoint = None if only_backbone else load_checkpoint(model, allow=allow)
    if checkpoint is None or checkpoint.kind == "backbone":
        raise ValueError(f"{model} contains only a backbone: give a model by its name, and weights={model} (--weights)")
    return checkpoint.config


def starting_settings(model: str, weights: str = "", overrides: Sequence[str] = ()) -> TrainConfig:
    """The default training settings, before those that depend on the data; the papers' for most named models.

    `overrides`: the training settings that are given, KEY=VALUE. The defaults of the compact models, and of the lite0
    models without weights, are for AdamW. With another optimizer, or with a learning rate and no optimizer, the
    defaults are the papers', which are for SGD.
    """
    if not starts_fresh(model) or is_whole(model, weights):
        return FINE_TUNING
    if model.endswith(COMPACT) or (model in lite.MODELS and weights == NO_WEIGHTS):
        given = {key.strip(): value.strip() for key, _, value in (word.partition("=") for word in overrides)}
        optimizer = given.get(PREFIX + "optimizer", "" if PREFIX + "lr" in given else FROM_SCRATCH.optimizer)
        return FROM_SCRATCH if optimizer == FROM_SCRATCH.optimizer else TrainConfig()
    return LITE if model in lite.MODELS else TrainConfig()


def choose_weights(model: str, given: str, config: DetectorConfig, overrides: Sequence[str]) -> tuple[str, str]:
    """The weights of a new run of `model` (a name or a folder; empty: random weights), and the reason for them.

    `given`: the user's choice; empty: none. `config`: of the model, without the KEY=VALUE `overrides`. ValueError if
    "imagenet" is given and the backbone has no ImageNet weights.
    """
    if not starts_fresh(model):
        return given, "the checkpoint's own"
    if given == NO_WEIGHTS:
        return "", "given"
    changed = override(config, overrides)
    if given == IMAGENET:
        entry = imagenet_entry(changed)
        if entry is None:
            raise ValueError(
                f"--weights imagenet: no ImageNet weights are known for the backbone of {config.name}; expected a name "
                "from `rcnn models weights`, the folder of a backbone, or none for random weights"
            )
        return entry.name, "given"
    if given:
        named = is_weight_name(given) and not Path(given).exists()
        weights = find_entry(given).name if named else given
        return weights, "given" if is_whole(model, weights) else "given; only its backbone is used"
    if model.startswith(CONFIG) or model.endswith(SCRATCH) or getattr(changed.backbone, "pretrained", False):
        return "", "--weights chooses others"
    entry = default_entry(model)
    if entry is not None and _same_layers(config, changed):
        imagenet = "imagenet, or " if imagenet_entry(changed) else ""
        return entry.name, f"its COCO weights; --weights {imagenet}none for random weights"
    entry = imagenet_entry(changed)
    if entry is not None:
        return entry.name, "ImageNet weights of its backbone; --weights none for random weights"
    return "", "no published weights fit it"


def _same_layers(config: DetectorConfig, changed: DetectorConfig) -> bool:
    """Whether all parts that both models have consist of the same layers."""
    return not different_layers(config, changed) and (config.cascade is None) == (changed.cascade is None)


def is_whole(model: str, weights: str) -> bool:
    """Whether `weights` are published weights of the whole detector `model`, not only a backbone for it."""
    if not weights or not is_weight_name(weights) or Path(weights).exists():
        return False
    entry = find_entry(weights)
    return entry.kind == "detector" and entry.model in (model, model + CAFFE)


def same_weights(given: str, recorded: str) -> bool:
    """Whether the user's choice `given` is the same as that in the record of a run (empty: random weights)."""
    if given in ("", recorded) or (given == NO_WEIGHTS and not recorded):
        return True
    if not is_weight_name(recorded):
        return False
    if given == IMAGENET:
        return find_entry(recorded).kind == "backbone"
    return is_weight_name(given) and find_entry(given).name == recorded


def read_weights(weights: str) -> Checkpoint:
    """The checkpoint of --weights, downloaded if needed.

    ConnectionError or FileNotFoundError if it cannot be found; the message also says how to train without it.
    """
    try:
        return read_checkpoint(weights)
    except (ConnectionError, FileNotFoundError) as error:
        near = "" if is_weight_name(weights) else close_to(weights, (IMAGENET, NO_WEIGHTS))
        raise type(error)(f"{error}{near}\nTo train from random weights instead: --weights none") from error


def to_download(weights: str) -> Entry | None:
    """The published weights called `weights`, if they are not on this machine; None otherwise."""
    if not weights or not is_weight_name(weights) or Path(weights).exists():
        return None
    entry = find_entry(weights)
    return None if entry.package or is_available(entry) else entry


def size_text(entry: Entry) -> str:
    """The name of weights with the size of the download, if it is published."""
    return entry.name + (f" ({entry.mib:.0f} MiB)" if entry.mib else "")


def with_backbone(config: DetectorConfig, model: str, weights: str, overrides: Sequence[str]) -> DetectorConfig:
    """`config` with the input settings that the backbone in `weights` expects; the user's `overrides` stay.

    ValueError if `model` is a checkpoint, because it has its own weights.
    """
    if not weights or is_whole(model, weights):
        return config
    if not starts_fresh(model):
        raise ValueError(
            f"--weights {weights}: {model} has its own weights. Give a model by its name, or leave --weights out"
        )
    return adopt_backbone(config, read_weights(weights), weights, overrides)


def buildable(config: DetectorConfig, source: str = "") -> Detector:
    """The detector with these settings and uninitialized weights.

    ValueError if it cannot be built; it names the file of the settings, `source`, if one is given.
    """
    try:
        return empty_detector(config)
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
    """A detector before its first step, with weights from `model` or `weights`; and a line about what was loaded.

    For random weights, the line is a warning if parts of the backbone are frozen, else empty.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        detector = build_detector(config)
    if not starts_fresh(model):
        return detector, transfer(detector, _trainable(read_checkpoint(model), model), classes)
    if is_whole(model, weights):
        return detector, f"{weights}: {transfer(detector, read_weights(weights), classes)}"
    if weights:
        return detector, load_backbone(detector, _trainable(read_weights(weights), weights), weights)
    return detector, frozen_and_random(config)


def frozen_and_random(config: DetectorConfig) -> str:
    """A warning if parts of the backbone would keep random weights, with the settings that train them; else ""."""
    backbone = config.backbone
    words = {
        "backbone.norm=bn": getattr(backbone, "norm", "") == "frozen_bn",
        "backbone.frozen_norms=false": getattr(backbone, "frozen_norms", False),
        **{f"backbone.{name}=0": getattr(backbone, name, 0) > 0 for name in FROZEN},
    }
    needed = [word for word, frozen in words.items() if frozen]
    if not needed:
        return ""
    if "backbone.norm=bn" in needed and config.fpn is not None:
        needed.insert(1, "fpn.norm=bn")
    return (
        "warning: you are training from random weights, but parts of the backbone are frozen and keep them. That works "
        "only with pretrained weights: --weights imagenet, a name from `rcnn models weights`, or a checkpoint of `rcnn "
        f"convert`. To train from random weights, set {' '.join(needed)} train.optimizer=adamw "
        "train.lr=0.002"
    )


def _trainable(checkpoint: Checkpoint, source: str) -> Checkpoint:
    """The checkpoint of `source`; ValueError if its weights are not finite, because every loss would be NaN."""
    if problem := nonfinite(checkpoint.state):
        raise ValueError(f"{source} has {problem}, so it cannot be trained: use an earlier checkpoint")
    return checkpoint
