"""FCIS of the two Chainer ports (`.npz`): ChainerCV's and knorth55's chainer-fcis.

They differ in names, in what their code computes (models/zoo/fcis.py) and in one eps each: ChainerCV's first norm and
chainer-fcis's norms of the shortcuts have 2e-5 where all others have 1e-5. Boxes are y, x, height, width.
"""

from __future__ import annotations

import json
import re
from typing import Any

from torch import Tensor

from rcnn.models.config import DetectorConfig, ResNetConfig
from rcnn.models.overrides import override
from rcnn.models.zoo.fcis import fcis_r101_coco_chainer, fcis_r101_coco_chainercv
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.chainer.names import EPS, VALUE, WORDS
from rcnn.weights.systems.classes import VOC_CLASSES, class_names
from rcnn.weights.systems.fcis.names import Layout, config_of
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource, read_settings
from rcnn.weights.systems.system import Plan, System, all_of

LAYOUT = Layout(yx=True, interleaved=True)
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
# settings that a detector has -> ours
SETTINGS = {
    "min_size": "input.min_size",
    "max_size": "input.max_size",
    "anchor_scales": "rpn.anchors.sizes",
    "proposal_min_size": "rpn.proposals.min_size",
    "proposal_creator_params.min_size": "rpn.proposals.min_size",
    "proposal_creator_params.nms_thresh": "rpn.proposals.nms_iou",
    "proposal_creator_params.n_train_pre_nms": "rpn.proposals.pre_nms_train",
    "proposal_creator_params.n_train_post_nms": "rpn.proposals.post_nms_train",
    "proposal_creator_params.n_test_pre_nms": "rpn.proposals.pre_nms",
    "proposal_creator_params.n_test_post_nms": "rpn.proposals.post_nms",
    "score_thresh": "fcis.score_threshold",
    "nms_thresh": "fcis.nms_iou",
    "mask_merge_thresh": "fcis.vote_iou",
    "binary_thresh": "fcis.mask_threshold",
    "min_drop_size": "fcis.min_size",
    "limit": "fcis.max_detections",
    "iter2": "fcis.refine",
    "target_height": "input.min_size",  # older names
    "max_width": "input.max_size",
    "merge_thresh": "fcis.vote_iou",
}
TRAINING = re.compile(r"seed|random_seed|gpu|out|config|resume|use_sbd|dataset|.*(epoch|iter|lr|cooldown|warmup).*")


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
    """`config` changed by their settings, and a sentence about settings that are not used."""
    settings: dict[str, Any] = {} if given is None else read_settings(given)
    for key in (key for key in settings if key in SETTINGS):
        ours, value = SETTINGS[key], settings[key]
        try:
            if ours == "rpn.anchors.sizes":
                value = [[16.0 * scale for scale in value]]
            if ours == "rpn.proposals.min_size":
                value = float(value) or -1.0  # 0 keeps all boxes, even those without area
            config = override(config, [f"{ours}={json.dumps(value)}"])
        except (TypeError, ValueError) as error:
            raise ValueError(f"{given}: {key}={value!r} is not supported ({error})") from error
    unknown = [key for key in settings if key not in SETTINGS and not TRAINING.fullmatch(key)]
    note = f"unknown settings, ignored: {', '.join(unknown)}; known are {', '.join(SETTINGS)}"
    return config, (note,) if unknown else ()


CHAINERCV = System(
    name="ChainerCV's FCIS",
    files=".npz",
    settings="arguments of FCISResNet101, KEY=VALUE or a YAML of them",
    recognises=all_of("head/ag_loc/W"),
    read=read_chainercv,
)
CHAINER_FCIS = System(
    name="chainer-fcis",
    files=".npz",
    settings="its demo.yaml or train.yaml, or KEY=VALUE",
    recognises=all_of("head/psroi_conv1/W"),
    read=read_chainer_fcis,
)
