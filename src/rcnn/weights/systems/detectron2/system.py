"""Detectron2's checkpoints: Faster, Mask, Cascade and Keypoint R-CNN and the RPN alone, on ResNet and ResNeXt.

Names map one to one and arrays keep their layout: background last, class-major boxes and dx dy dw dh are our
conventions, too. Settings come from a YAML file, the name of a model-zoo config, or KEY=VALUE. Missing settings are
taken from the buffers of the file, else from the model zoo's network with such tensors (tensors.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.converted import Assumption, expected_state
from rcnn.weights.systems.detectron2.config import classes_of, config_of
from rcnn.weights.systems.detectron2.export import resnet_of, settings_of, with_trunk_eps
from rcnn.weights.systems.detectron2.settings import not_kept, read_yaml
from rcnn.weights.systems.detectron2.tensors import BUFFERS, buffer_settings, settings_of_tensors
from rcnn.weights.systems.detectron2.zoo import is_zoo_name, zoo_settings
from rcnn.weights.systems.layout import identity_statistics
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource, existing_file, parse_settings
from rcnn.weights.systems.system import COUNTER, Export, Plan, System, all_of

# tensors of unsupported networks
OTHERS = (
    (r"sem_seg_head\.", "a panoptic or semantic head"),
    (r"head\.(cls|bbox)_subnet\.", "RetinaNet's head"),
    (r".*\.(conv2_offset|offset)\.", "deformable convolutions"),
    (r"roi_heads\.mask_(point|coarse)_head\.", "PointRend's mask head"),
    (r"roi_heads\.densepose_", "DensePose's head"),
    (r"backbone\.(body|bottom_up\.trunk)", "an FBNet of D2Go other than FBNetV3A"),
    (r"backbone\.(net\.|simfp_)", "a vision transformer (ViTDet); this converter supports ResNets"),
    (r"backbone\.(bottom_up\.)?(stem\.fc|linear)\.", "the output layer of an image classifier"),
    (r"roi_heads\.\d+\.", "several sets of heads"),
)
RULES = Rules(
    (
        (r"backbone\.bottom_up\.((?:stem|res\d)\..+)", "backbone.{1}"),
        (r"backbone\.fpn_(lateral|output)(\d\..+)", "fpn.{1}{2}"),
        (r"(backbone\.(?:stem|res\d)\..+)", "{1}"),
        (r"proposal_generator\.rpn_head\.conv\.conv(\d+)\.(weight|bias)", "rpn.convs.{1}.{2}"),
        (r"proposal_generator\.rpn_head\.conv\.(weight|bias)", "rpn.convs.0.{1}"),
        (r"proposal_generator\.rpn_head\.objectness_logits\.(.+)", "rpn.objectness.{1}"),
        (r"proposal_generator\.rpn_head\.anchor_deltas\.(.+)", "rpn.deltas.{1}"),
        (r"roi_heads\.(res5\..+)", "box_head.trunk.{1}"),
        (r"roi_heads\.box_head\.((?:fc|conv)\d+\..+)", "box_head.trunk.{1}"),
        (r"roi_heads\.box_predictor\.cls_score\.(.+)", "box_head.logits.{1}"),
        (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", "box_head.deltas.{1}"),
        (r"roi_heads\.box_head\.(\d+)\.((?:fc|conv)\d+\..+)", "box_head.stages.{1}.trunk.{2}"),
        (r"roi_heads\.box_predictor\.(\d+)\.cls_score\.(.+)", "box_head.stages.{1}.logits.{2}"),
        (r"roi_heads\.box_predictor\.(\d+)\.bbox_pred\.(.+)", "box_head.stages.{1}.deltas.{2}"),
        (r"roi_heads\.mask_head\.mask_fcn(\d+)\.(.+)", "mask_head.trunk.conv{1}.{2}"),
        (r"roi_heads\.mask_head\.deconv\.(.+)", "mask_head.deconv.{1}"),
        (r"roi_heads\.mask_head\.predictor\.(.+)", "mask_head.logits.{1}"),
        (r"roi_heads\.keypoint_head\.conv_fcn(\d+)\.(.+)", "keypoint_head.trunk.conv{1}.{2}"),
        (r"roi_heads\.keypoint_head\.score_lowres\.(.+)", "keypoint_head.logits.{1}"),
    ),
    skip=BUFFERS,
    others=OTHERS,
)
BACK = RULES.inverted()


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of a Detectron2 file; `settings` are its YAML, the name of a zoo config, or KEY=VALUE."""
    placed = RULES.place(found.state, found.source, SYSTEM.name)
    theirs, summary, assumed = _settings(found, settings)
    config = config_of(theirs, found.source if settings is None else str(settings)[:200])
    return Plan(
        config=config,
        placed=placed,
        complete=_with_statistics,
        classes=classes_of(theirs.get("DATASETS.TRAIN", ()), config),
        summary=summary,
        assumed=assumed,
        notes=not_kept(theirs),
    )


def _settings(found: Found, given: SettingsSource) -> tuple[dict[str, Any], str, tuple[Assumption, ...]]:
    """Detectron2's settings for a file, where they come from, and what is assumed."""
    if given is not None and is_zoo_name(given):
        return zoo_settings(str(given)), f"settings of the model zoo's {given}", ()
    path = existing_file(given) if given is not None else None
    words: dict[str, object] = {} if given is None or path is not None else parse_settings(str(given), "--config")
    if given is not None and not words:
        return read_yaml(given), f"settings of {path.name if path else given}", ()
    theirs, assumed = settings_of_tensors({name: found.shape(name) for name in found.state}, words, found.source)
    buffers, names = buffer_settings(found.state, theirs)
    summary = "; ".join(
        [f"settings of {', '.join(names)} in the file"] * bool(names) + ["settings as given"] * bool(words)
    )
    known = buffers.keys() | words.keys()
    return (
        theirs | buffers | words,
        summary or "no settings given: give its YAML with config (--config) if it differs from the model zoo's",
        tuple(assumption for keys, assumption in assumed if not set(keys) & known or not keys),
    )


def to_detectron2(state: Mapping[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """The state dict of Detectron2's network for our `state`. Raises ValueError if it has no such network."""
    trunk = resnet_of(config)
    frozen = tuple(["backbone.stem.", *(f"backbone.res{number}." for number in (2, 3, 4, 5))][: trunk.frozen_stages])
    theirs = {}
    for name, value in state.items():
        if name.endswith("num_batches_tracked") and name.startswith(frozen) and not value.any():
            continue  # in Detectron2, the norms of frozen stages have no step counter
        theirs[_detectron2_name(name, config)] = with_trunk_eps(name, value, config)
    return theirs


def _detectron2_name(name: str, config: DetectorConfig) -> str:
    if config.fpn is None and name.startswith("backbone."):
        return name
    new = BACK.required(name, SYSTEM.name)
    return new.replace("rpn_head.conv.conv0.", "rpn_head.conv.") if config.rpn.convs == 1 else new


def _with_statistics(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
    """`state` with step counters of 0 where a norm has none.

    The first versions of Detectron2 wrote no statistics of frozen norms: means of 0 and variances of 1.
    """
    expected = expected_state(config)
    first_version = not any(name.endswith("running_mean") for name in state)
    statistics = identity_statistics(state) if first_version else state
    counters = {f"{name.removesuffix('.weight')}{COUNTER}" for name in state if name.endswith(".norm.weight")}
    added = statistics | {name: torch.zeros((), dtype=torch.int64) for name in counters}
    return state | {name: value for name, value in added.items() if name in expected and name not in state}


SYSTEM = System(
    name="Detectron2",
    files=".pkl, .pth",
    settings="its YAML, the name of a config of its model zoo, or KEY=VALUE",
    recognises=all_of(r"(proposal_generator|roi_heads\.box_predictor)\..+"),
    read=read,
    export=Export(
        option="detectron2",
        suffixes=(".pth", ".pkl"),
        state=to_detectron2,
        content=lambda state, classes: {"model": state, "__author__": "rcnn"},
        settings=lambda config, classes: settings_of(config),
    ),
)
