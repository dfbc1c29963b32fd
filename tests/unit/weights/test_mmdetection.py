"""MMDetection's files: names and rows both ways; its config is read without running it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models import DetectorConfig, model_config
from rcnn.models.config import (
    BoxHeadConfig,
    CascadeConfig,
    FPNConfig,
    InputConfig,
    MaskHeadConfig,
    ProposalConfig,
    ResNetConfig,
)
from rcnn.ops.anchors import cell_anchors
from rcnn.weights.systems.classes import COCO_CLASSES
from rcnn.weights.systems.converted import expected_state
from rcnn.weights.systems.layout import anchors_to_ratio_outer
from rcnn.weights.systems.mmdetection import system as mmdetection
from rcnn.weights.systems.mmdetection.config import parse_config, read_config
from rcnn.weights.systems.mmdetection.settings import with_settings
from rcnn.weights.systems.mmdetection.system import to_mmdetection
from rcnn.weights.systems.torchvision import to_torchvision
from tests.unit.weights.state_dicts import convert_state

# all their parameters and statistics outside the backbone: mask-rcnn_r50_fpn, MMDetection 3.3
WEIGHT_AND_BIAS = ("weight", "bias")
NECK = {
    f"neck.{kind}_convs.{i}.conv.{last}" for kind in ("lateral", "fpn") for i in range(4) for last in WEIGHT_AND_BIAS
}
HEADS = {
    f"{layer}.{last}"
    for layer in (
        "rpn_head.rpn_conv", "rpn_head.rpn_cls", "rpn_head.rpn_reg", "roi_head.bbox_head.fc_cls",
        "roi_head.bbox_head.fc_reg", "roi_head.bbox_head.shared_fcs.0", "roi_head.bbox_head.shared_fcs.1",
        *(f"roi_head.mask_head.convs.{i}.conv" for i in range(4)), "roi_head.mask_head.upsample",
        "roi_head.mask_head.conv_logits",
    )
    for last in WEIGHT_AND_BIAS
}  # fmt: skip


def resnet_names(depth: int = 50) -> set[str]:
    """torchvision's names, which are MMDetection's, below `backbone.`, without the classifier."""
    import torchvision

    with torch.device("meta"):
        net = getattr(torchvision.models, f"resnet{depth}")()
    return {f"backbone.{name}" for name in net.state_dict() if not name.startswith("fc.")}


def blank_state(config: DetectorConfig) -> dict[str, Tensor]:
    """Names and shapes only; values are tested with `random_state`."""
    return dict(expected_state(config))


def random_state(config: DetectorConfig, seed: int = 0) -> dict[str, Tensor]:
    """Different random values for every tensor of a detector of `config`."""
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(value.shape, generator=generator) for name, value in blank_state(config).items()}


def mmdetection_config() -> DetectorConfig:
    """mask-rcnn_r50_fpn as its base config has it."""
    base = model_config("mask_rcnn_r50_fpn")
    return replace(
        base,
        input=InputConfig(resize="opencv"),
        backbone=ResNetConfig(trained_affine=True),
        rpn=replace(base.rpn, legacy=replace(base.rpn.legacy, low_quality="overruled", normalizer="sampled")),
        mask=MaskHeadConfig(target="bitmap"),
    )


def test_mask_rcnn_has_their_names_and_comes_back_bit_for_bit() -> None:
    config = mmdetection_config()
    state = random_state(config)
    theirs = to_mmdetection(state, config)
    assert set(theirs) == resnet_names() | NECK | HEADS
    assert theirs["roi_head.bbox_head.fc_cls.weight"].shape == (81, 1024)
    assert theirs["roi_head.bbox_head.fc_reg.weight"].shape == (320, 1024)
    assert mmdetection.SYSTEM.recognises(theirs)
    converted = convert_state(mmdetection.SYSTEM, theirs, source="mask_rcnn.pth")
    assert converted.config == config
    assert converted.state.keys() == state.keys()
    assert all(torch.equal(converted.state[name], value) for name, value in state.items())
    assert all(name.endswith("num_batches_tracked") for name in converted.skipped)
    assert any("stride in the 3x3" in line for line in converted.assumed)
    again = to_mmdetection(converted.state, converted.config)
    assert again.keys() == theirs.keys()
    assert all(torch.equal(again[name], value) for name, value in theirs.items())


def test_rows_of_several_sizes_are_their_anchors(tmp_path: Path) -> None:
    """C4 has 15 anchors per cell; theirs by their formula, compared row by row with ours."""
    config = replace(model_config("faster_rcnn_r50_c4"), num_classes=2)
    order = anchors_to_ratio_outer("rpn.objectness.", torch.arange(15), config)  # our rows in their order
    ours = cell_anchors(config.rpn.anchors.sizes[0], config.rpn.anchors.ratios)
    ratios, scales = np.array([0.5, 1.0, 2.0]), np.array([2, 4, 8, 16, 32])
    heights = (16 * np.sqrt(ratios)[:, None] * scales[None]).reshape(-1)
    widths = (16 / np.sqrt(ratios)[:, None] * scales[None]).reshape(-1)
    theirs = np.stack([-0.5 * widths, -0.5 * heights, 0.5 * widths, 0.5 * heights], 1)
    np.testing.assert_allclose(ours[order].numpy(), theirs, atol=1e-3)
    state = random_state(config)
    out = to_mmdetection(state, config)
    assert {name for name in out if name.startswith("roi_head.shared_head.")} == {
        name.replace("backbone.", "roi_head.shared_head.") for name in resnet_names() if "layer4" in name
    }
    for row, index in enumerate(order.tolist()):
        assert torch.equal(out["rpn_head.rpn_cls.weight"][row], state["rpn.objectness.weight"][index])
        assert torch.equal(
            out["rpn_head.rpn_reg.bias"][4 * row : 4 * row + 4], state["rpn.deltas.bias"][4 * index :][:4]
        )
    back = convert_state(mmdetection.SYSTEM, out)
    assert back.config.box.trunk == "res5"
    assert isinstance(back.config.backbone, ResNetConfig)
    assert back.config.backbone.stride_in_1x1
    assert all(torch.equal(back.state[name], value) for name, value in state.items())


CASCADE = CascadeConfig(
    delta_weights=(
        (10.0, 10.0, 5.0, 5.0),
        (20.0, 20.0, 10.0, 10.0),
        (30.303030303, 30.303030303, 14.925373134, 14.925373134),  # their .033 and .067 are no thirds
    ),
    loss_weights=(1.0, 0.5, 0.25),
    feature_gradient=1.0,
    average="logits",  # one softmax of their mean
    resample=True,
    mask_heads="each",
)  # fmt: skip
FOUR_CONV = BoxHeadConfig(convs=4, fcs=1, norm="gn")
VARIANTS = {
    "cascade": replace(
        mmdetection_config(),
        name="cascade_mask_rcnn_r50_fpn",
        cascade=CASCADE,
        box=BoxHeadConfig(class_agnostic=True, smooth_l1_beta=1.0),
    ),
    "gn": replace(
        mmdetection_config(),
        fpn=FPNConfig(norm="gn"),
        box=FOUR_CONV,
        backbone=ResNetConfig(norm="gn"),
        mask=MaskHeadConfig(norm="gn", target="bitmap"),
    ),
    "x101_32x4d": replace(
        mmdetection_config(),
        name="faster_rcnn_x101_fpn",
        backbone=ResNetConfig(depth=101, groups=32, width_per_group=4, trained_affine=True),
        mask=None,
    ),
    "rpn": replace(mmdetection_config(), name="rpn_r50_fpn", num_classes=1, mask=None, proposals_only=True),
}
# their base configs of these two
OWN_RPN: dict[str, dict[str, Any]] = {
    "cascade": {"proposals": ProposalConfig(post_nms_train=2000), "smooth_l1_beta": 1 / 9},
    "rpn": {"proposals": ProposalConfig(pre_nms=2000)},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_family_comes_back_as_it_went(name: str) -> None:
    config = replace(VARIANTS[name], rpn=replace(VARIANTS[name].rpn, **OWN_RPN.get(name, {})))
    state = blank_state(config)
    converted = convert_state(mmdetection.SYSTEM, to_mmdetection(state, config))
    assert {key: value.shape for key, value in converted.state.items()} == {k: v.shape for k, v in state.items()}
    assert replace(converted.config, name=config.name) == config


BASE = """
# model settings
norm_cfg = dict(type='BN', requires_grad=False)
model = dict(
    type='MaskRCNN',
    data_preprocessor=dict(
        type='DetDataPreprocessor', mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False,
        pad_mask=True, pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=50, frozen_stages=1, norm_cfg=norm_cfg, norm_eval=True, style='caffe',
                  init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://detectron2/resnet50_caffe')),
    neck=dict(type='FPN', in_channels=[256, 512, 1024, 2048], out_channels=256, num_outs=5),
    rpn_head=dict(type='RPNHead', anchor_generator=dict(type='AnchorGenerator', scales=[8], ratios=[0.5, 1.0, 2.0],
                  strides=[4, 8, 16, 32, 64]), loss_bbox=dict(type='SmoothL1Loss', beta=1.0 / 9.0, loss_weight=1.0)),
    roi_head=dict(type='StandardRoIHead',
        bbox_roi_extractor=dict(type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2), featmap_strides=[4, 8, 16, 32]),
        bbox_head=dict(type='Shared2FCBBoxHead', num_classes=80,
            bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]))),
    train_cfg=dict(rpn=dict(sampler=dict(type='RandomSampler', num=128, pos_fraction=0.5), allowed_border=0)),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=500, nms=dict(type='nms', iou_threshold=0.65), min_bbox_size=0),
        rcnn=dict(score_thr=0.01, nms=dict(type='soft_nms', iou_threshold=0.4), max_per_img=50)))
"""
ABOVE = """
_base_ = ['base.py']
import os
secret = os.getenv('HOME')
model = dict(
    backbone=dict(frozen_stages=-1),
    roi_head=dict(bbox_head=dict(_delete_=True, type='Shared2FCBBoxHead', num_classes=80, odd_word=3)))
test_pipeline = [dict(type='Resize', scale=(1000, 600), keep_ratio=True)]
open('canary', 'w').write('run')
"""


def write(folder: Path) -> Path:
    (folder / "base.py").write_text(BASE)
    (folder / "mine.py").write_text(ABOVE)
    return folder / "mine.py"


def test_their_config_is_honoured_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = mmdetection_config()
    theirs = to_mmdetection(blank_state(config), config)
    converted = convert_state(mmdetection.SYSTEM, theirs, write(tmp_path))
    assert not (tmp_path / "canary").exists()
    got = converted.config
    assert got.input == InputConfig(
        min_size=600, max_size=1000, resize="opencv", channel_order="bgr", pixel_mean=(103.53, 116.28, 123.675),
        pixel_std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    assert got.backbone == ResNetConfig(stride_in_1x1=True, frozen_stages=0)
    assert (
        got.rpn.proposals.nms_iou,
        got.rpn.proposals.post_nms,
        got.rpn.sampling.batch_size,
        got.rpn.legacy.straddle,
    ) == (0.65, 500, 128, 0.0)
    assert got.rpn.smooth_l1_beta == pytest.approx(1 / 9)
    assert (
        got.box.pooler.sampling_ratio,
        got.box.score_threshold,
        got.box.selection.nms,
        got.box.selection.nms_iou,
    ) == (
        2,
        0.01,
        "soft_linear",
        0.4,
    )
    assert got.box.selection.max_detections == 50
    told = " ".join(converted.notes)
    assert all(word in told for word in ("import", "os.getenv", "odd_word", "mine.py"))


def test_the_config_in_a_file_and_its_class_names_are_used() -> None:
    config = mmdetection_config()
    theirs = to_mmdetection(blank_state(config), config)
    names = tuple(f"thing {i}" for i in range(80))
    short = {"dataset_meta": {"classes": names[1:]}}
    other = convert_state(mmdetection.SYSTEM, theirs, extras={"meta": short})
    assert other.classes == COCO_CLASSES
    assert other.notes == (
        "CLASSES in its meta has 79 names for 80 classes and is not used: give the names with classes (--classes)",
    )
    meta = {"cfg": BASE, "dataset_meta": {"classes": names}}
    converted = convert_state(mmdetection.SYSTEM, theirs, extras={"meta": meta})
    assert converted.classes == names
    assert isinstance(converted.config.backbone, ResNetConfig)
    assert converted.config.backbone.stride_in_1x1


def test_their_losses_anchors_and_samples_are_used_or_reported() -> None:
    config = mmdetection_config()
    theirs = to_mmdetection(blank_state(config), config)
    text = """
model = dict(
    rpn_head=dict(anchor_generator=dict(type='AnchorGenerator', center_offset=0.5),
                  loss_cls=dict(type='CrossEntropyLoss', use_sigmoid=True, loss_weight=2.0),
                  loss_bbox=dict(type='L1Loss', loss_weight=3.0)),
    neck=dict(type='FPN', upsample_cfg=dict(mode='bilinear')),
    roi_head=dict(bbox_head=dict(loss_bbox=dict(type='L1Loss', loss_weight=10.0), loss_cls=dict(loss_weight=1.0)),
                  mask_head=dict(loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=4.0))),
    train_cfg=dict(rcnn=dict(pos_weight=-1, sampler=dict(add_gt_as_proposals=False))),
    test_cfg=dict(rpn=dict(min_bbox_size=7), rcnn=dict(mask_thr_binary=0.4)))
test_pipeline = [dict(type='Resize', scale=(640, 640), keep_ratio=False)]
"""
    given = convert_state(mmdetection.SYSTEM, theirs, extras={"meta": {"config": text}})
    assert (given.config.rpn.loss_weights, given.config.box.delta_loss_weight) == ((2.0, 3.0), 10.0)
    assert (given.config.rpn.anchors.offset, given.config.rpn.proposals.min_size) == (0.5, 7.0)
    assert given.config.rpn.legacy.normalizer == "sampled"  # their RPN divides by the anchors that it sampled
    assert not given.config.box.append_ground_truth
    assert [line.rpartition("model.")[2] for line in given.notes] == [
        "neck.upsample_cfg.mode",
        "roi_head.mask_head.loss_mask.loss_weight",
        "test_cfg.rcnn.mask_thr_binary",
        "unknown, ignored: keep_ratio=False in test_pipeline; images keep their aspect ratio here",
    ]


def test_images_that_do_not_keep_their_aspect_ratio_are_reported_for_version_2() -> None:
    train, tested = ({"pipeline": [{"type": "Resize", "keep_ratio": keep}]} for keep in (True, False))
    config = mmdetection_config()
    _, unknown = with_settings(config, {"model": {}, "data": {"train": train, "test": tested}}, "config.py")
    assert unknown == ["keep_ratio=False in test_pipeline; images keep their aspect ratio here"]
    assert with_settings(config, {"model": {}, "data": {"train": tested, "test": train}}, "config.py")[1] == []


@pytest.mark.parametrize(("said", "divisor"), [(", pad_size_divisor=16", 16), ("", 1)])
def test_padding_follows_their_config(said: str, divisor: int, tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(f"model = dict(data_preprocessor=dict(type='DetDataPreprocessor'{said}))")
    config = mmdetection_config()
    assert (
        convert_state(mmdetection.SYSTEM, to_mmdetection(blank_state(config), config), file).config.input.divisor
        == divisor
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("model = dict(type='HybridTaskCascade')", "HybridTaskCascade"),
        ("model = dict(backbone=dict(dcn=dict(type='DCNv2')))", "dcn"),
        ("model = dict(rpn_head=dict(loss_bbox=dict(type='GIoULoss')))", "GIoULoss"),
        ("x = 1", "model = dict"),
        ("model = (", "cannot be read"),
    ],
)
def test_what_is_not_ours_is_named(text: str, wanted: str, tmp_path: Path) -> None:
    file = tmp_path / "theirs.py"
    file.write_text(text)
    config = mmdetection_config()
    theirs = to_mmdetection(blank_state(config), config)
    with pytest.raises(ValueError, match=wanted):
        convert_state(mmdetection.SYSTEM, theirs, file)


def test_networks_that_they_do_not_build_are_refused_on_the_way_out() -> None:
    one = replace(
        mmdetection_config(), cascade=replace(CASCADE, mask_heads="one"), box=BoxHeadConfig(class_agnostic=True)
    )
    with pytest.raises(ValueError, match="a mask head for each stage"):
        to_mmdetection({}, one)
    pairs = replace(
        mmdetection_config(),
        rpn=replace(mmdetection_config().rpn, legacy=replace(mmdetection_config().rpn.legacy, objectness="softmax")),
    )
    with pytest.raises(ValueError, match="one score per anchor"):
        to_mmdetection({}, pairs)
    with pytest.raises(ValueError, match="one score per anchor"):
        to_torchvision({}, pairs)
    with pytest.raises(ValueError, match="expected batch norm"):
        to_torchvision({}, replace(mmdetection_config(), mask=MaskHeadConfig(norm="gn")))


def test_plain_values_only() -> None:
    values, left = parse_config(
        "a = 2\nb = dict(x=a * 3, y=[-1.5, True, None], **dict(z='s'))\nc = __import__('os').system('true')\n"
        "d = 9 ** 9 ** 9\ne = [i for i in range(10 ** 9)]\nf = 'x' * 10 ** 9\n",
        "text",
    )
    assert values == {"a": 2, "b": {"x": 6, "y": [-1.5, True, None], "z": "s"}}
    assert [line.split()[1].rstrip(",") for line in left] == ["c", "d", "e", "f"]


def test_a_config_that_builds_on_itself_or_on_nothing(tmp_path: Path) -> None:
    file = tmp_path / "loop.py"
    file.write_text("_base_ = 'loop.py'\n")
    with pytest.raises(ValueError, match="build on each other"):
        read_config(file)
    file.write_text("_base_ = '../missing.py'\n")
    with pytest.raises(FileNotFoundError, match=r"missing\.py"):
        read_config(file)
