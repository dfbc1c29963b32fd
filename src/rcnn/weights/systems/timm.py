"""Backbones of the timm library, from its own files (`.pth`, `.safetensors`); needs rcnn[timm].

The network is named by --config, by the config.json beside the file (Hugging Face), or by the name of the file. Files
of the package efficientnet_pytorch have other names for the tensors of timm's tf_efficientnet, in the same order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcnn.models import model_config
from rcnn.models.backbones.timm import import_timm, pixel_statistics
from rcnn.models.config import DetectorConfig, TimmConfig
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.converted import Assumption, expected_state
from rcnn.weights.systems.renaming import Placed
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Plan, System, all_of

OTHER_NAMES = "_conv_stem.weight"  # a tensor name that only efficientnet_pytorch has
# tensor names of the stems of timm's networks, and of blocks of ResNet variants
STEMS = r"(_?conv_stem|stem(_\d)?|patch_embed|conv1\.0|layer1\.0\.(se|attn_last|conv2\.\w+))\..+"


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a timm file; `settings` is its name in timm, with or without the name of the weights."""
    beside = _beside(Path(found.source))
    name, source = _name(found, settings, beside)
    config = _config(name, beside)
    ours = [each for each in expected_state(config) if each.startswith("backbone.")]
    # efficientnet_pytorch has the same order; tensors after our last one are the classifier
    names = dict(zip(found.state, ours, strict=False)) if OTHER_NAMES in found.state else _by_name(found, ours)
    return Plan(
        config=config,
        placed=Placed(names, tuple(each for each in found.state if each not in names)),
        summary=f"{name} of timm; backbone only",
        assumed=(
            *([Assumption(f"the network is timm's {name}", source)] if source else []),
            Assumption("pixels", f"timm's values for {name}", ("input.pixel_mean", "input.pixel_std")),
        ),
    )


def architecture_beside(file: Path) -> str:
    """The name of the network in timm's config.json in the folder of `file`; empty if there is none."""
    return str(_beside(file).get("architecture", ""))


def _beside(file: Path) -> Mapping[str, Any]:
    """The content of timm's config.json in the folder of `file`; empty if there is none."""
    try:
        content = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) and isinstance(content.get("architecture"), str) else {}


def _name(found: Found, settings: SettingsSource, beside: Mapping[str, Any]) -> tuple[str, str]:
    """timm's name of the network, and where it comes from (empty: from the user)."""
    if settings is not None:
        return str(settings), ""
    if beside:
        return str(beside["architecture"]), "the config.json beside the file"
    known = set(import_timm().list_models(pretrained=False))
    words = re.split(r"[-_.]", Path(found.source).name.lower())
    prefix = "tf_" if OTHER_NAMES in found.state else ""  # these files pad as TensorFlow does
    names = (prefix + "_".join(words[:end]) for end in range(len(words), 0, -1))
    if (name := next((each for each in names if each in known), None)) is None:
        raise ValueError(
            f"{found.source} looks like a network of timm, but the file does not contain its name: give it with "
            "config (--config), e.g. resnet50d"
        )
    return name, f"the file name {Path(found.source).name}"


def _config(name: str, beside: Mapping[str, Any]) -> DetectorConfig:
    """A config with this backbone and the pixels that it was trained on."""
    config = replace(model_config("faster_rcnn_r50_fpn"), backbone=TimmConfig(name=name))
    statistics = pixel_statistics(TimmConfig(name=name))
    given = beside.get("pretrained_cfg")
    if isinstance(given, Mapping) and {"mean", "std"} <= given.keys():
        statistics = tuple(255 * float(value) for value in given["mean"]), tuple(255 * float(v) for v in given["std"])
    pixels = {} if statistics is None else dict(zip(("input.pixel_mean", "input.pixel_std"), statistics, strict=True))
    return with_settings(config, pixels)


def _by_name(found: Found, ours: list[str]) -> dict[str, str]:
    """Their names -> ours. timm's network for feature maps joins two parts of a name (stages_0), or adds `model.`."""
    expected, names = set(ours), dict[str, str]()
    for name in found.state:
        candidates = (f"backbone.net.{each}" for each in (name, name.replace(".", "_", 1), f"model.{name}"))
        if new := next((each for each in candidates if each in expected), None):
            names[name] = new
    return names


SYSTEM = System(
    name="timm",
    files=".pth, .safetensors of a backbone, to start training from",
    settings="the name of the network in timm, e.g. resnet50d",
    recognises=all_of(STEMS),
    read=read,
    kind="backbone",
)
