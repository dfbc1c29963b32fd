"""FCIS of its authors (MXNet's `.params`): ResNet, RPN and maps under MXNet's names.

`fcis_bbox_{weight,bias}_test` are the box maps times the standard deviation of the deltas, which the test graph
multiplies by again: they are skipped, and `fcis.delta_weights` multiplies once.
"""

from __future__ import annotations

from rcnn.models.zoo.fcis import fcis_r101_coco
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.classes import VOC_CLASSES, class_names
from rcnn.weights.systems.fcis.names import Layout, config_of
from rcnn.weights.systems.renaming import Rules
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Plan, System, all_of

LAYOUT = Layout(yx=False, interleaved=False)
NORM = "(gamma|beta|moving_mean|moving_var)"
HEADS = {
    "rpn_conv_3x3": "rpn.convs.0", "rpn_cls_score": "rpn.objectness", "rpn_bbox_pred": "rpn.deltas",
    "conv_new_1": "box_head.reduce", "fcis_cls_seg": "box_head.maps", "fcis_bbox": "box_head.deltas",
}  # fmt: skip
RULES = Rules(
    (
        (r"(?:arg:|aux:)?conv1_(weight|bias)", "backbone.stem.conv1.{1}"),
        (rf"(?:arg:|aux:)?bn_conv1_{NORM}", "backbone.stem.conv1.norm.{1:norm}"),
        # res4b7_branch2a: block 7; res5c: block 2
        (r"(?:arg:|aux:)?res(\d)([a-z]\d*)_branch(1|2[abc])_(weight|bias)", "backbone.res{1}.{2:block}.{3:conv}.{4}"),
        (
            rf"(?:arg:|aux:)?bn(\d)([a-z]\d*)_branch(1|2[abc])_{NORM}",
            "backbone.res{1}.{2:block}.{3:conv}.norm.{4:norm}",
        ),
        (rf"(?:arg:|aux:)?({'|'.join(HEADS)})_(weight|bias)", "{1:head}.{2}"),
    ),
    skip=r"(?:arg:|aux:)?fcis_bbox_(weight|bias)_test",
    words={
        "norm": {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_var": "running_var"},
        "conv": {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"},
        "head": HEADS,
    },
)


def read(found: Found, settings: SettingsSource) -> Plan:
    """The network of an MXNet file, with the prefixes `arg:` and `aux:` or without."""
    placed = RULES.place(found.state, found.source, SYSTEM.name)
    config, assumed = config_of(found, placed.ours, fcis_r101_coco(), "fcis_r101_voc")
    return Plan(
        config=config,
        names=placed.ours,
        tensor=LAYOUT.tensor,
        classes=class_names(config.num_classes, VOC_CLASSES),
        assumed=assumed,
        skipped=placed.skipped,
    )


SYSTEM = System(name="MXNet's FCIS", files=".params", recognises=all_of("(arg:)?fcis_cls_seg_weight"), read=read)
