"""The named models: functions that return a config, usually a changed copy of another. One file per family."""

from __future__ import annotations

import difflib

from rcnn.arguments import wrong_type
from rcnn.models.config import DetectorConfig
from rcnn.models.zoo import cascade, classic, compact, d2go, fcis, keypoint, lite, modern, norms, proposals, torchvision
from rcnn.models.zoo.naming import Models

MODELS: Models = {
    **classic.MODELS,
    **d2go.MODELS,
    **compact.MODELS,
    **keypoint.MODELS,
    **cascade.MODELS,
    **proposals.MODELS,
    **fcis.MODELS,
    **norms.MODELS,
    **torchvision.MODELS,
    **modern.MODELS,
    **lite.MODELS,
}


def list_models() -> list[str]:
    """The names that `model_config` accepts, sorted."""
    return sorted(MODELS)


def model_config(name: str) -> DetectorConfig:
    """The config called `name`. Raises ValueError, with similar names, for an unknown name."""
    if not isinstance(name, str):
        raise wrong_type(name, "the name of the model", "a string, e.g. 'mask_rcnn_r50_fpn'")
    if name not in MODELS:
        raise ValueError(unknown_model(name))
    return MODELS[name]()


def without_masks(name: str) -> str:
    """The name of the model most similar to the model `name`, which has masks, but without masks; "" if none exists."""
    backbone = name.partition("mask_rcnn_")[2]
    names = (name.replace("mask_rcnn_", "rcnn_"), f"faster_rcnn_{backbone}", f"faster_rcnn_{name.partition('_')[2]}")
    return next((other for other in names if other in MODELS and not MODELS[other]().has_masks), "")


def unknown_model(name: str) -> str:
    """The error message for an unknown model name, with up to three similar names."""
    near = difflib.get_close_matches(name, MODELS, n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"no model named {name!r}; {hint}`rcnn models list` prints all names"
