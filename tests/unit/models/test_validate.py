"""Contradictory configs: refused before anything is built, with a message that says what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rcnn.models import build_detector, model_config
from rcnn.models.config import ViTConfig
from rcnn.models.overrides import override
from rcnn.models.validate import validate


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("mask_rcnn_r50_c4", ["cascade={}"], r"one head per stage, .*\(C4\).* set fpn=\{\}"),
        ("mask_rcnn_fbnetv3a_c4", ["cascade={}"], r"a cascade with box.trunk=fbnet is not supported"),
        ("mask_rcnn_compact", ["cascade={ious: [0.5]}"], r"cascade\.ious has 1, cascade\.delta_weights has 3"),
        (
            "cascade_mask_rcnn_compact",
            ["cascade.loss_weights=[]"],
            r"cascade\.loss_weights has 0; expected the same number",
        ),
        (
            "cascade_mask_rcnn_compact",
            ["legacy.boxes=inclusive"],
            r"legacy\.boxes=inclusive comes from systems without a cascade",
        ),
        ("fcis_compact", ["mask={}"], r"cannot be combined with a mask head; set mask=null or fcis=null"),
        ("fcis_compact", ["cascade={}"], r"cannot be combined with a cascade head"),
        ("fcis_compact", ["keypoint={}"], r"cannot be combined with a keypoint head"),
        ("mask_rcnn_r50_fpn", ["mask.trunk=res5"], r"shares res5 of the box head, but box\.trunk is fc"),
        (
            "mask_rcnn_r50_fpn",
            ["box.trunk=res5"],
            r"continues a ResNet from res4, but with an FPN",
        ),
        ("mask_rcnn_r50_fpn", ["box.trunk=mobilenet_v1"], r"continues MobileNet v1, but the backbone is resnet"),
        (
            "mask_rcnn_r50_fpn",
            ["mask.pooler.kind=image_affine"],
            r"mask\.pooler\.kind=image_affine is defined for one map",
        ),
        ("mask_rcnn_r50_c4", ["backbone.stages=[2, 3, 4, 5]"], r"this backbone already has res5"),
        (
            "mask_rcnn_compact",
            ["box.class_weights=[1, 2]"],
            r"has length 2; expected 7: .*num_classes is 6.*background",
        ),
        (
            "mask_rcnn_compact",
            ["box.sampling.min_negative_iou=0.6"],
            r"box\.sampling has min_negative_iou=0\.6 and positive_iou=0\.5",
        ),
        (
            "rpn_r50_fpn",
            ["rpn.sampling.negative_iou=0.8"],
            r"rpn\.sampling has negative_iou=0\.8 and positive_iou=0\.7; expected negative_iou <= positive_iou",
        ),
        (
            "fcis_compact",
            ["fcis.sampling.min_negative_iou=0.6"],
            r"fcis\.sampling has min_negative_iou=0\.6 and positive_iou=0\.5",
        ),
        (
            "mask_rcnn_compact",
            ["box.selection.nms=soft_gaussian", "box.selection.soft_nms_sigma=0"],
            r"expected a number above 0",
        ),
        ("mask_rcnn_compact", ["fpn.channels=0"], r"fpn\.channels is 0; expected 1 or more"),
        ("mask_rcnn_compact", ["mask.pooler.size=0"], r"mask\.pooler\.size is 0; expected 1 or more"),
        ("mask_rcnn_compact", ["box.selection.nms_iou=-3"], r"box\.selection\.nms_iou is -3\.0; expected 0 to 1"),
        ("mask_rcnn_compact", ["box.score_threshold=2"], r"box\.score_threshold is 2\.0; expected 0 to 1"),
        ("mask_rcnn_compact", ["rpn.sampling.positive_fraction=1.5"], r"positive_fraction is 1\.5; expected 0 to 1"),
        ("mask_rcnn_compact", ["input.pixel_std=[0,1,1]"], r"input\.pixel_std is .*; expected more than 0"),
        (
            "mask_rcnn_compact",
            ["backbone.norm_eps=0"],
            r"backbone\.norm_eps is 0\.0; expected more than 0",
        ),
        ("mask_rcnn_compact", ["rpn.anchors.ratios=[0]"], r"rpn\.anchors\.ratios is .*; expected more than 0"),
        ("mask_rcnn_compact", ["rpn.anchors.ratios=[]"], r"rpn\.anchors\.ratios is empty; expected one ratio or more"),
        ("mask_rcnn_compact", ["box.arguments={a: 1}"], r"box\.arguments .*, but box\.factory is not set"),
        ("mask_rcnn_compact", ["rpn.convs=-1"], r"rpn\.convs is -1; expected 0 to 128"),
        ("fcis_compact", ["fcis.score_threshold=50"], r"fcis\.score_threshold is 50\.0; expected 0 to 1"),
        (
            "mask_rcnn_compact",
            ["input.min_size=2000"],
            r"input\.min_size=2000 is larger than input\.max_size=.*; set input\.max_size to 2000 or more",
        ),
        ("rpn_r50_fpn", ["rpn.legacy.objectness=object_logit"], r"is not a probability, .*objectness=softmax"),
        ("mask_rcnn_compact", ["num_classes=0"], r"num_classes is 0; expected 1 or more"),
        ("mask_rcnn_compact", ["input.max_size=10000000"], r"input\.max_size is 10000000; expected 0 to 1,000,000"),
        ("mask_rcnn_compact", ["box.fcs=10000000"], r"box\.fcs is 10000000; expected 0 to 128"),
        ("mask_rcnn_compact", ["rpn.proposals.post_nms=10000000"], r"post_nms is 10000000; expected 0 to 1,000,000"),
        ("mask_rcnn_compact", ["rpn.anchors.sizes=[[],[],[],[],[]]"], r"expected a size or more per level"),
        ("mask_rcnn_compact", ["box.trunk=fbnet"], r"box\.trunk=fbnet continues D2Go's FBNet, .* is compact"),
        ("mask_rcnn_compact", ["mask.trunk=fbnet"], r"mask\.trunk=fbnet continues D2Go's FBNet"),
        ("faster_rcnn_r50_c4", ["backbone.stages=[2, 3]"], r"from res4, but backbone\.stages is \[2, 3\]"),
        ("fcis_compact", ["fcis.mask_threshold=0"], r"fcis\.mask_threshold is 0.*; expected more than 0"),
        (
            "faster_rcnn_fbnetv3a_c4",
            ["fpn={}", "rpn.anchors.sizes=[[32],[64]]"],
            r"box\.trunk=fbnet continues the map of the backbone, but with an FPN .* set box\.trunk=fc, or fpn=null",
        ),
        ("mask_rcnn_fbnetv3a_c4", ["fpn={}", "box.trunk=fc"], r"mask\.trunk=fbnet .* set mask\.trunk=convs"),
        (
            "faster_rcnn_fbnetv3a_c4",
            ["fpn={channels: 100}", "box.trunk=fc"],
            r"fpn\.channels is 100; expected a multiple of 8 with rpn\.head=fbnet",
        ),
        (
            "faster_rcnn_compact",
            ["backbone.kind=mobilenet_v1", "box.trunk=mobilenet_v1"],
            r"box\.trunk=mobilenet_v1 continues the map of the backbone, but with an FPN",
        ),
        ("faster_rcnn_fbnetv3a_c4", ["rpn.convs=2"], r"rpn\.convs=2 has no effect .*; set rpn\.convs=1"),
        (
            "mask_rcnn_r50_c4",
            ["mask.pooler.size=28"],
            r"mask\.trunk=res5 trains masks .* box\.pooler\.size is 14 and mask\.pooler\.size is 28; set both",
        ),
        ("mask_rcnn_r50_c4", ["box.pooler.aligned=false"], r"aligned is False and mask\.pooler\.aligned is True"),
        (
            "cascade_mask_rcnn_compact",
            ["cascade.ious=[50,60,70]"],
            r"cascade\.ious is \(50\.0, 60\.0, 70\.0\); expected 0 to 1",
        ),
        (
            "cascade_mask_rcnn_compact",
            ["cascade.ious=[0.4,0.5,0.6]", "box.sampling.min_negative_iou=0.45"],
            r"min_negative_iou=0\.45 and cascade\.ious is \[0\.4, 0\.5, 0\.6\]; expected min_negative_iou <= 0\.4",
        ),
        ("mask_rcnn_swin_tiny_fpn", ["backbone.drop_path=20"], r"backbone\.drop_path is 20\.0; expected 0 to 1"),
        (
            "mask_rcnn_r50_fpn",
            ["box.sampling.batch_size=3"],
            r"box\.sampling has batch_size=3 and positive_fraction=0\.25, so no sample has a positive box",
        ),
        ("rpn_r50_fpn", ["rpn.sampling.batch_size=1"], r"rpn\.sampling has batch_size=1 and positive_fraction=0\.5"),
        ("fcis_compact", ["fcis.ohem=false", "fcis.sampling.batch_size=3"], r"fcis\.sampling has batch_size=3"),
        ("mask_rcnn_vit_base", ["input.divisor=0"], r"input\.divisor is 0; expected a multiple of 32"),
    ],
)
def test_contradictory_settings_are_refused(name: str, changes: list[str], words: str) -> None:
    config = override(model_config(name), changes)
    with pytest.raises(ValueError, match=words):
        build_detector(config)


def test_the_smallest_window_of_a_vit_is_0() -> None:
    """0: global attention in every block."""
    config = replace(model_config("mask_rcnn_compact"), backbone=ViTConfig(window=0), fpn=None)
    validate(config)
    with pytest.raises(ValueError, match=r"backbone\.window is -1; expected 0 "):
        validate(replace(config, backbone=ViTConfig(window=-1)))


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("mask_rcnn_r50_fpn", ["box.sampling.batch_size=4", "rpn.sampling.batch_size=2"]),
        ("mask_rcnn_r50_fpn", ["box.sampling.batch_size=1", "box.sampling.positive_fraction=0"]),
        ("fcis_compact", ["fcis.sampling.batch_size=1"]),  # with ohem, the regions with the highest losses
        ("fcis_compact", ["box.sampling.batch_size=1"]),  # FCIS has no box head
        ("cascade_mask_rcnn_compact", ["box.sampling.positive_iou=0.1", "box.sampling.min_negative_iou=0.5"]),
        ("faster_rcnn_fbnetv3a_c4", ["fpn={}", "box.trunk=fc"]),
        ("faster_rcnn_fbnetv3a_c4", ["fpn={}", "proposals_only=true", "num_classes=1"]),
        ("mask_rcnn_r50_c4", ["mask.pooler.kind=roi_pool", "mask.pooler.sampling_ratio=2"]),  # as in Detectron's files
        ("mask_rcnn_swin_tiny_fpn", ["backbone.drop_path=1.0"]),
    ],
)
def test_what_has_an_effect_is_accepted(name: str, changes: list[str]) -> None:
    config = override(model_config(name), changes)
    assert config != model_config(name)
    validate(config)
