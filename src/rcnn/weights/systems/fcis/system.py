"""FCIS of its authors (MXNet's `.params`) and of two Chainer ports (`.npz`): ChainerCV's and knorth55's chainer-fcis.

They differ in names, in what their code computes (models/zoo/fcis.py) and in eps: ChainerCV's first norm and
chainer-fcis's norms of the shortcuts have 2e-5, all others 1e-5. Boxes of the ports are y, x, height, width. MXNet's
`fcis_bbox_{weight,bias}_test` are the box maps times the standard deviation of the deltas, and are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from rcnn.models.config import DetectorConfig, ResNetConfig
from rcnn.models.zoo.fcis import fcis_r101_coco, fcis_r101_coco_chainer, fcis_r101_coco_chainercv
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.setting_texts import with_settings
from rcnn.weights.systems.chainer.names import EPS, VALUE, WORDS
from rcnn.weights.systems.classes import VOC_CLASSES, class_names
from rcnn.weights.systems.fcis.layout import Layout, config_of
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource, same, same_settings, typed_settings
from rcnn.weights.systems.system import Plan, System, all_of

CHAINER_LAYOUT = Layout(yx=True, interleaved=True)
COMMON = (
    (rf"rpn/conv1/{VALUE}", "rpn.convs.0.{1:value}"),
    (rf"rpn/score/{VALUE}", "rpn.objectness.{1:value}"),
    (rf"rpn/loc/{VALUE}", "rpn.deltas.{1:value}"),
)
COUNTERS = r".*/bn\d?/N"  # batch counters of norms
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


@dataclass(frozen=True)
class Settings:
    """Settings of the Chainer ports that a detector has; None: not given."""

    min_size: int | None = same("input.min_size", None)
    max_size: int | None = same("input.max_size", None)
    anchor_scales: tuple[float, ...] | None = None  # in units of 16 pixels
    proposal_min_size: float | None = None
    proposal_creator_params_nms_thresh: float | None = same("rpn.proposals.nms_iou", None)
    proposal_creator_params_n_train_pre_nms: int | None = same("rpn.proposals.pre_nms_train", None)
    proposal_creator_params_n_train_post_nms: int | None = same("rpn.proposals.post_nms_train", None)
    proposal_creator_params_n_test_pre_nms: int | None = same("rpn.proposals.pre_nms", None)
    proposal_creator_params_n_test_post_nms: int | None = same("rpn.proposals.post_nms", None)
    score_thresh: float | None = same("fcis.score_threshold", None)
    nms_thresh: float | None = same("fcis.nms_iou", None)
    mask_merge_thresh: float | None = same("fcis.vote_iou", None)
    binary_thresh: float | None = same("fcis.mask_threshold", None)
    min_drop_size: float | None = same("fcis.min_size", None)
    limit: int | None = same("fcis.max_detections", None)
    iter2: bool | None = same("fcis.refine", None)


RENAMED = {
    "proposal_creator_params.min_size": "proposal_min_size",
    "target_height": "min_size",  # older names
    "max_width": "max_size",
    "merge_thresh": "mask_merge_thresh",
}
TRAINING = "seed|random_seed|gpu|out|config|resume|use_sbd|dataset|.*(epoch|iter|lr|cooldown|warmup).*"


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
    """The plan of a file; `base` makes its config for COCO, `voc` is the name of its config for VOC.

    Norms with `wider` in their names have an eps of 2e-5; empty: no norm has it.
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
        placed=placed,
        tensor=layout.tensor,
        complete=complete,
        classes=class_names(config.num_classes, VOC_CLASSES),
        assumed=assumed if given is None else (),
        notes=notes,
    )


def _with_settings(config: DetectorConfig, given: SettingsSource) -> tuple[DetectorConfig, tuple[str, ...]]:
    """`config` with the settings `given`, and sentences about settings that are not used."""
    theirs = typed_settings(Settings, given, renamed=RENAMED)
    values = {ours: value for ours, value in same_settings(theirs.values, config).items() if value is not None}
    if theirs.values.anchor_scales is not None:
        values["rpn.anchors.sizes"] = [[16.0 * scale for scale in theirs.values.anchor_scales]]
    if theirs.values.proposal_min_size is not None:  # 0 keeps all boxes, even those without area
        values["rpn.proposals.min_size"] = theirs.values.proposal_min_size or -1.0
    return with_settings(config, values), theirs.notes(TRAINING)


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
