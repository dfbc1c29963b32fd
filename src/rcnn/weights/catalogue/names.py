"""Finds published weights by name.

MODEL@TAG is one file. MODEL alone is the file that most users expect: torchvision's COCO weights where they exist,
otherwise the COCO weights with the highest published AP.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from functools import cache

from rcnn.commands import as_typed
from rcnn.models import MODELS, model_config
from rcnn.models.config import DetectorConfig, MobileNetConfig, ResNetConfig, TimmConfig
from rcnn.weights.catalogue.entry import Entry, read_table

TABLES = (
    "detectron2", "tensorpack", "mmdetection", "detectron", "chainercv", "d2go",
    "imagenet_fair", "imagenet_tensorpack", "imagenet_timm", "imagenet_package",
)  # fmt: skip
CAFFE = "_caffe"  # end of the names of models on MSRA's ResNets
SCRATCH = "_scratch"  # end of the names of models that are trained from random weights
MOBILENET = "mobilenet_v3_large"  # the network of MobileNetConfig


@cache
def entries() -> dict[str, Entry]:
    """All entries by name, torchvision's first."""
    from rcnn.weights.catalogue import torchvision  # slow

    tables = [entry for table in TABLES for entry in read_table(table)]
    return {entry.name: entry for entry in (*torchvision.entries(), *tables)}


def is_weight_name(word: str) -> bool:
    """Whether `word` looks like the name of published weights: MODEL@TAG, or a model that has COCO weights."""
    return re.fullmatch(r"\w+@[\w-]+", word) is not None or default_entry(word) is not None


def find_entry(name: str) -> Entry:
    """The entry called `name`, with or without `_caffe`. Raises ValueError with similar names if there is none."""
    if entry := _exact(name) or default_entry(name):
        return entry
    hint = suggestion(name)
    if name in MODELS:
        backbone = imagenet_entry(model_config(name))
        start = f", which starts from the ImageNet weights {backbone.name} of its backbone" if backbone else ""
        raise ValueError(
            f"the model {name} has no published weights{hint}. `rcnn models weights` prints all names of weights; to "
            f"train it{start}: {as_typed('rcnn', 'train', name, '--data', 'DATA')}"
        )
    raise ValueError(f"no weights named {name!r}{hint}; `rcnn models weights` prints all names")


def suggestion(name: str) -> str:
    """Names of weights that are similar to `name`, in brackets, as part of a message; empty if none is similar."""
    near = similar_names(name)
    if not near:
        return ""
    return f" (similar models with weights: {', '.join(near)})" if name in MODELS else f" (did you mean {_any(near)}?)"


def similar_names(name: str) -> list[str]:
    """Up to three names of weights or models that are similar to `name`. The first case that applies decides:

    - weights of the same model with tags that start with the tag of `name`, highest COCO AP first;
    - other weights of the same model;
    - weights with similar names, if `name` has a tag;
    - models with weights and similar names; for a model of the zoo, only of its family.
    """
    model, _, tag = name.partition("@")
    same = [known for known in entries() if known.partition("@")[0] in (model, model + CAFFE)]
    best = [entry.name for one in (model, model + CAFFE) for entry in detectors_of(one)]
    if tag and (longer := [one for one in dict.fromkeys(best + same) if one.partition("@")[2].startswith(tag)]):
        return longer[:3]
    if same:
        return difflib.get_close_matches(name, same, n=3, cutoff=0.0)
    if tag and (near := difflib.get_close_matches(name, entries(), n=3, cutoff=0.8)):
        return near
    models = sorted({entry.model for entry in entries().values() if default_entry(entry.model)})
    if model in MODELS:  # it has no weights itself
        family = model.partition("_rcnn_")[0]
        return difflib.get_close_matches(model, [one for one in models if one.startswith(f"{family}_rcnn_")], n=3)
    return difflib.get_close_matches(model, models, n=3, cutoff=0.8)


def _any(words: Sequence[str]) -> str:
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else words[0]


def _exact(name: str) -> Entry | None:
    model, _, tag = name.partition("@")
    return entries().get(name) or (entries().get(f"{model}{CAFFE}@{tag}") if tag else None)


def detectors_of(model: str) -> list[Entry]:
    """The detectors of `model` that were trained on COCO, torchvision's first, then by AP."""
    known = [entry for entry in entries().values() if entry.model == model and entry.kind == "detector"]
    return sorted(
        (entry for entry in known if entry.data == "COCO"),
        key=lambda entry: (entry.system == "torchvision", entry.scores),
        reverse=True,
    )


def files_of(model: str) -> list[Entry]:
    """All files of a model and of the model with `_caffe`; those trained on COCO come first (`detectors_of`)."""
    first = detectors_of(model)
    known = [entry for name in (model, model + CAFFE) for entry in entries().values() if entry.model == name]
    return first + [entry for entry in known if entry not in first]


def matching_entries(name: str) -> list[Entry]:
    """The files that `name` may refer to. Raises ValueError with similar names if there are none.

    For a model: its files (`files_of`). For MODEL@TAG: that file. Otherwise: all files with `name` in their names.
    """
    if files := files_of(name):
        return files
    if "@" not in name and (with_part := [entry for entry in entries().values() if name in entry.name]):
        return with_part
    return [find_entry(name)]


def default_entry(model: str) -> Entry | None:
    """The COCO weights that the name of `model` refers to; None if there are none."""
    return next(iter(detectors_of(model)), None)


def imagenet_entry(config: DetectorConfig) -> Entry | None:
    """The ImageNet weights for the backbone of `config`, with its colors and strides; None if there are none."""
    name = network_name(config)
    if name is None:
        return None
    if isinstance(config.backbone, TimmConfig):
        tags: tuple[str, ...] = ("package", "timm")
    else:
        tags = ("torchvision",) if isinstance(config.backbone, MobileNetConfig) else _resnet_tags(config)
    return next((entries()[f"{name}@{tag}"] for tag in tags if f"{name}@{tag}" in entries()), None)


def network_name(config: DetectorConfig) -> str | None:
    """The usual name of the backbone of `config`, e.g. resnet50, resnext101_32x8d, resnet50_gn."""
    backbone = config.backbone
    if isinstance(backbone, TimmConfig):
        return backbone.name.partition(".")[0]
    if isinstance(backbone, MobileNetConfig):
        return MOBILENET
    if not isinstance(backbone, ResNetConfig) or backbone.blocks:
        return None
    if backbone.groups == 1 and backbone.width_per_group == 64:
        return f"resnet{backbone.depth}" + ("_gn" if backbone.norm == "gn" else "")
    if backbone.groups == 1:
        return f"wide_resnet{backbone.depth}_2" if backbone.width_per_group == 128 else None
    return f"resnext{backbone.depth}_{backbone.groups}x{backbone.width_per_group}d"


def _resnet_tags(config: DetectorConfig) -> tuple[str, ...]:
    """The publishers of a ResNet for `config`, best first."""
    backbone = config.backbone
    assert isinstance(backbone, ResNetConfig)
    if backbone.norm == "gn":
        return ("fair",)
    if backbone.norm == "none":
        return ()
    if config.input.channel_order == "bgr" and backbone.norm == "frozen_bn":
        return ("msra", "fair")
    return ("torchvision",)
