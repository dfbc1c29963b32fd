"""FCIS of the two Chainer ports (`.npz`): ChainerCV's and knorth55's chainer-fcis.

They differ in names, in what their code computes (models/zoo/fcis.py) and in one eps each: ChainerCV's first norm and
chainer-fcis's norms of the shortcuts have 2e-5 where all others have 1e-5. Boxes are y, x, height, width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from rcnn.models.config import DetectorConfig, ResNetConfig
from rcnn.models.zoo.fcis import fcis_r101_coco_chainer, fcis_r101_coco_chainercv
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.classes import VOC_CLASSES, class_names
from rcnn.weights.systems.fcis.names import Layout, config_of
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource, read_settings
from rcnn.weights.systems.system import Plan, System

EPS = 2e-5  # of the norms that differ
LAYOUT = Layout(yx=True, interleaved=True)
VALUE = "(W|b|gamma|beta|avg_mean|avg_var)"
WORDS = {
    "value": {
        "W": "weight", "b": "bias", "gamma": "norm.weight", "beta": "norm.bias",
        "avg_mean": "norm.running_mean", "avg_var": "norm.running_var",
    },
    "conv": {"1": "conv1", "2": "conv2", "3": "conv3", "4": "shortcut"},
}  # fmt: skip
COMMON = (
    (rf"rpn/conv1/{VALUE}", "rpn.convs.0.{1:value}"),
    (rf"rpn/score/{VALUE}", "rpn.objectness.{1:value}"),
    (rf"rpn/loc/{VALUE}", "rpn.deltas.{1:value}"),
)
COUNTERS = r".*/bn\d?/N"  # of the batches that a norm has seen
CHAINERCV_RULES = Rules(
    (
        *COMMON,
        (rf"extractor/conv1/(?:conv|bn)/{VALUE}", "backbone.stem.conv1.{1:value}"),
        (rf"extractor/res(\d)/(a|b\d+)/(conv\d)/(?:conv|bn)/{VALUE}", "backbone.res{1}.{2:block}.{3}.{4:value}"),
        (
            rf"extractor/res(\d)/(a|b\d+)/residual_conv/(?:conv|bn)/{VALUE}",
            "backbone.res{1}.{2:block}.shortcut.{3:value}",
        ),
        (rf"head/conv1/{VALUE}", "box_head.reduce.{1:value}"),
        (rf"head/cls_seg/{VALUE}", "box_head.maps.{1:value}"),
        (rf"head/ag_loc/{VALUE}", "box_head.deltas.{1:value}"),
    ),
    COUNTERS,
    WORDS,
)
CHAINER_FCIS_RULES = Rules(
    (
        *COMMON,
        (rf"extractor/res1/(?:conv|bn)1/{VALUE}", "backbone.stem.conv1.{1:value}"),
        (rf"extractor/res(\d)/res\1_(a|b\d+)/(?:conv|bn)(\d)/{VALUE}", "backbone.res{1}.{2:block}.{3:conv}.{4:value}"),
        (rf"head/psroi_conv1/{VALUE}", "box_head.reduce.{1:value}"),
        (rf"head/psroi_conv2/{VALUE}", "box_head.maps.{1:value}"),
        (rf"head/psroi_conv3/{VALUE}", "box_head.deltas.{1:value}"),
    ),
    COUNTERS,
    WORDS,
)
# settings that a detector has
SETTINGS: dict[str, Callable[[DetectorConfig, Any], DetectorConfig]] = {
    "min_size": lambda config, value: replace(config, input=replace(config.input, min_size=int(value))),
    "max_size": lambda config, value: replace(config, input=replace(config.input, max_size=int(value))),
    "anchor_scales": lambda config, value: replace(
        config,
        rpn=replace(
            config.rpn, anchors=replace(config.rpn.anchors, sizes=(tuple(16.0 * float(scale) for scale in value),))
        ),
    ),
    "proposal_min_size": lambda config, value: _proposals(config, {"min_size": value}),
    "proposal_creator_params": lambda config, value: _proposals(config, dict(value)),
    "score_thresh": lambda config, value: _fcis(config, score_threshold=float(value)),
    "nms_thresh": lambda config, value: _fcis(config, nms_iou=float(value)),
    "mask_merge_thresh": lambda config, value: _fcis(config, vote_iou=float(value)),
    "binary_thresh": lambda config, value: _fcis(config, mask_threshold=float(value)),
    "min_drop_size": lambda config, value: _fcis(config, min_size=float(value)),
    "limit": lambda config, value: _fcis(config, max_detections=int(value)),
    "iter2": lambda config, value: _fcis(config, refine=bool(value)),
}
ALIASES = {"target_height": "min_size", "max_width": "max_size", "merge_thresh": "mask_merge_thresh"}  # older names
OF_THE_RUN = re.compile(r"seed|random_seed|gpu|out|config|resume|use_sbd|dataset|.*(epoch|iter|lr|cooldown|warmup).*")


def recognises_chainercv(names: Collection[str]) -> bool:
    """Whether tensors of these names belong to ChainerCV's FCIS."""
    return "head/ag_loc/W" in names


def recognises_chainer_fcis(names: Collection[str]) -> bool:
    """Whether tensors of these names belong to chainer-fcis."""
    return "head/psroi_conv1/W" in names


def read_chainercv(found: Found, settings: SettingsSource) -> Plan:
    """The network of ChainerCV's FCIS; `settings` are arguments of its FCISResNet101, YAML or KEY=VALUE."""
    base, sbd = fcis_r101_coco_chainercv(), "fcis_r101_sbd_chainercv"
    return _read(found, settings, CHAINERCV, CHAINERCV_RULES, base, sbd, "backbone.stem.")


def read_chainer_fcis(found: Found, settings: SettingsSource) -> Plan:
    """The network of chainer-fcis; `settings` are its demo.yaml or train.yaml, or KEY=VALUE."""
    base, sbd = fcis_r101_coco_chainer(), "fcis_r101_sbd_chainer"
    return _read(found, settings, CHAINER_FCIS, CHAINER_FCIS_RULES, base, sbd, ".shortcut.")


def _read(
    found: Found, given: SettingsSource, system: System, rules: Rules, base: DetectorConfig, sbd: str, wider: str
) -> Plan:
    """The plan of either system; the norms whose names contain `wider` have an eps of 2e-5."""
    placed = rules.place(found.state, found.source, system.name)
    config, assumed = config_of(found, placed.ours, base, sbd)
    config, notes = _with_settings(config, given)

    def complete(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
        eps = config.backbone.norm_eps if isinstance(config.backbone, ResNetConfig) else 1e-5
        return {
            name: value + (EPS - eps) if wider in name and name.endswith("running_var") else value
            for name, value in state.items()
        }

    return Plan(
        config=config,
        names=placed.ours,
        tensor=LAYOUT.tensor,
        complete=complete,
        classes=class_names(config.num_classes, VOC_CLASSES),
        assumed=assumed if given is None else (),
        notes=notes,
        skipped=placed.skipped,
    )


def _with_settings(config: DetectorConfig, given: SettingsSource) -> tuple[DetectorConfig, tuple[str, ...]]:
    """`config` with settings of theirs, and a sentence about those that are not used."""
    if given is None:
        return config, ()
    ignored = []
    for key, value in _nested(read_settings(given)).items():
        key = ALIASES.get(key, key)
        if key in SETTINGS:
            try:
                config = SETTINGS[key](config, value)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{given}: {key}={value!r} has the wrong type ({error})") from error
        elif not OF_THE_RUN.fullmatch(key):
            ignored.append(key)
    said = f"unknown settings, ignored: {', '.join(ignored)}; known are {', '.join(SETTINGS)}"
    return config, (said,) if ignored else ()


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`a.b: 1` as `a: {b: 1}`: their settings are the arguments of functions."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        name, _, inner = key.partition(".")
        if inner:
            nested.setdefault(name, {})[inner] = value
        else:
            nested[name] = value
    return nested


def _proposals(config: DetectorConfig, given: Mapping[str, Any]) -> DetectorConfig:
    """`config` with the arguments of ChainerCV's ProposalCreator."""
    counts = {
        "n_train_pre_nms": "pre_nms_train", "n_train_post_nms": "post_nms_train",
        "n_test_pre_nms": "pre_nms", "n_test_post_nms": "post_nms",
    }  # fmt: skip
    changes: dict[str, Any] = {ours: int(given[theirs]) for theirs, ours in counts.items() if theirs in given}
    if "nms_thresh" in given:
        changes["nms_iou"] = float(given["nms_thresh"])
    if "min_size" in given:
        changes["min_size"] = float(given["min_size"]) or -1.0  # 0 keeps boxes without area, too
    if others := given.keys() - counts.keys() - {"nms_thresh", "min_size", "force_cpu_nms"}:
        raise ValueError(f"proposals have no {', '.join(sorted(others))}")
    proposals = replace(config.rpn.proposals, **changes)
    return replace(config, rpn=replace(config.rpn, proposals=proposals))


def _fcis(config: DetectorConfig, **changes: Any) -> DetectorConfig:
    assert config.fcis is not None
    return replace(config, fcis=replace(config.fcis, **changes))


CHAINERCV = System(
    name="ChainerCV's FCIS",
    files=".npz",
    settings="arguments of FCISResNet101, KEY=VALUE or a YAML of them",
    recognises=recognises_chainercv,
    read=read_chainercv,
)
CHAINER_FCIS = System(
    name="chainer-fcis",
    files=".npz",
    settings="its demo.yaml or train.yaml, or KEY=VALUE",
    recognises=recognises_chainer_fcis,
    read=read_chainer_fcis,
)
