"""FCIS of its authors (MXNet's `.params`) and of two Chainer ports (`.npz`): ChainerCV's and knorth55's chainer-fcis.

They differ in names, in what their code computes (models/zoo/fcis.py) and in eps: ChainerCV's first norm and
chainer-fcis's norms of the shortcuts have 2e-5, all others 1e-5. Boxes of the ports are y, x, height, width. MXNet's
`fcis_bbox_{weight,bias}_test` are the box maps times the standard deviation of the deltas, and are skipped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from rcnn.models.config import DetectorConfig, ResNetConfig
from rcnn.models.overrides import override
from rcnn.models.zoo.fcis import fcis_r101_coco, fcis_r101_coco_chainer, fcis_r101_coco_chainercv
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.chainer.names import EPS, VALUE, WORDS
from rcnn.weights.systems.classes import VOC_CLASSES, class_names
from rcnn.weights.systems.fcis.names import Layout, config_of
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource, read_settings
from rcnn.weights.systems.system import Plan, System, all_of

CHAINER_LAYOUT = Layout(yx=True, interleaved=True)
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


MXNET_NORM = "(gamma|beta|moving_mean|moving_var)"
MXNET_HEADS = {
    "rpn_conv_3x3": "rpn.convs.0", "rpn_cls_score": "rpn.objectness", "rpn_bbox_pred": "rpn.deltas",
    "conv_new_1": "box_head.reduce", "fcis_cls_seg": "box_head.maps", "fcis_bbox": "box_head.deltas",
}  # fmt: skip
MXNET_RULES = Rules(
    (
        (r"(?:arg:|aux:)?conv1_(weight|bias)", "backbone.stem.conv1.{1}"),
        (rf"(?:arg:|aux:)?bn_conv1_{MXNET_NORM}", "backbone.stem.conv1.norm.{1:norm}"),
        # res4b7_branch2a: block 7; res5c: block 2
        (r"(?:arg:|aux:)?res(\d)([a-z]\d*)_branch(1|2[abc])_(weight|bias)", "backbone.res{1}.{2:block}.{3:conv}.{4}"),
        (
            rf"(?:arg:|aux:)?bn(\d)([a-z]\d*)_branch(1|2[abc])_{MXNET_NORM}",
            "backbone.res{1}.{2:block}.{3:conv}.norm.{4:norm}",
        ),
        (rf"(?:arg:|aux:)?({'|'.join(MXNET_HEADS)})_(weight|bias)", "{1:head}.{2}"),
    ),
    skip=r"(?:arg:|aux:)?fcis_bbox_(weight|bias)_test",
    words={
        "norm": {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"},
        "conv": {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"},
        "head": MXNET_HEADS,
    },
)


def _read(
    rules: Rules,
    layout: Layout,
    base: Callable[[], DetectorConfig],
    voc: str,
    wider: str,
    found: Found,
    given: SettingsSource,
) -> Plan:
    """The plan of a file; `base` and `voc` are its configs for COCO and VOC.

    Norms with `wider` in their names have an eps of 2e-5; empty: none.
    """
    placed = rules.place(found.state, found.source, "FCIS")
    config, assumed = config_of(found, placed.ours, base(), voc)
    config, notes = _with_settings(config, given)

    def complete(state: dict[str, Tensor], config: DetectorConfig) -> dict[str, Tensor]:
        if not wider or not isinstance(config.backbone, ResNetConfig):
            return state
        more = EPS - config.backbone.norm_eps
        names = [name for name in state if wider in name and name.endswith("running_var")]
        return state | {name: state[name] + more for name in names}

    return Plan(
        config=config,
        names=placed.ours,
        tensor=layout.tensor,
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
    read=partial(
        _read,
        CHAINERCV_RULES,
        CHAINER_LAYOUT,
        fcis_r101_coco_chainercv,
        "fcis_r101_sbd_chainercv",
        "backbone.stem.",
    ),
)
CHAINER_FCIS = System(
    name="chainer-fcis",
    files=".npz",
    settings="its demo.yaml or train.yaml, or KEY=VALUE",
    recognises=all_of("head/psroi_conv1/W"),
    read=partial(
        _read, CHAINER_FCIS_RULES, CHAINER_LAYOUT, fcis_r101_coco_chainer, "fcis_r101_sbd_chainer", ".shortcut."
    ),
)
MXNET = System(
    name="MXNet's FCIS",
    files=".params",
    recognises=all_of("(arg:)?fcis_cls_seg_weight"),
    read=partial(_read, MXNET_RULES, Layout(yx=False, interleaved=False), fcis_r101_coco, "fcis_r101_voc", ""),
)
