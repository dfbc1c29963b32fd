"""Settings as text: what is accepted, and what each refusal says."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from rcnn.models.config import BoxHeadConfig, CompactConfig, DetectorConfig, MaskHeadConfig, ResNetConfig, RPNConfig
from rcnn.models.overrides import (
    config_from_dict,
    config_to_dict,
    describe,
    leaf_paths,
    override,
)
from rcnn.models.zoo import MODELS, model_config


def test_values_take_the_fields_own_types() -> None:
    config = override(
        model_config("mask_rcnn_r50_fpn"),
        [
            "rpn.proposals.nms_iou=0.6",
            "rpn.proposals.nms_iou=1",
            "box.sampling.batch_size=128",
            "backbone.depth=101",
            "input.channel_order=bgr",
            "input.pixel_mean=[1,2,3.5]",
            "rpn.anchors.sizes=[[16],[32],[64],[128],[256]]",
            "rpn.legacy.anchors=torchvision",
            "rpn.smooth_l1_beta=1e-1",
            "mask.convs=2",
        ],
    )
    assert config.rpn.proposals.nms_iou == 1.0
    assert type(config.rpn.proposals.nms_iou) is float
    assert config.box.sampling.batch_size == 128
    assert config.backbone == ResNetConfig(depth=101)
    assert config.input.pixel_mean == (1.0, 2.0, 3.5)
    assert config.rpn.anchors.sizes == ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    assert config.rpn.legacy.whole_cells is True
    assert config.rpn.smooth_l1_beta == 0.1
    assert config.mask is not None
    assert config.mask.convs == 2
    assert config.fpn is not None  # nothing else moved


def test_parts_are_taken_away_put_back_and_exchanged() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    assert override(config, ["mask=null", "fpn=null"]).mask is None
    assert override(config, ["mask=null", "mask={}", "mask.width=64"]).mask == MaskHeadConfig(width=64)
    assert override(config, ["mask={trunk: res5}"]).mask == MaskHeadConfig(trunk="res5")
    assert override(config, ["backbone.kind=compact"]).backbone == CompactConfig()
    exchanged = override(config, ["backbone={kind: compact, stem_width: 24}"])
    assert exchanged.backbone == CompactConfig(stem_width=24)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rpn.proposals.nms_iuo=0.6", ["rpn.proposals.nms_iuo", "rpn.proposals.nms_iou"]),
        ("nms_iou=0.6", ["rpn.proposals.nms_iou", "box.selection.nms_iou"]),
        ("nms_iuo=0.6", ["rpn.proposals.nms_iou", "box.selection.nms_iou"]),
        ("RPN.NMS_IOU=0.6", ["rpn.proposals.nms_iou"]),
        ("xyzzy=1", ["xyzzy", "there are", "backbone"]),
        ("rpn.proposals.nms_iou.more=1", ["rpn.proposals.nms_iou.more", "rpn.proposals.nms_iou"]),
        ("rpn.proposals.nms_iou=high", ["rpn.proposals.nms_iou", "float", "'high'"]),
        ("rpn.proposals.nms_iou=null", ["rpn.proposals.nms_iou", "float", "None"]),
        ("rpn.proposals.nms_iou=.nan", ["rpn.proposals.nms_iou", "float", "nan"]),
        ("rpn.sampling.batch_size=2.5", ["rpn.sampling.batch_size", "int", "2.5"]),
        ("rpn.sampling.batch_size=true", ["rpn.sampling.batch_size", "int", "True"]),
        ("rpn.legacy.whole_cells=1", ["rpn.legacy.whole_cells", "bool", "1"]),
        ("backbone.depth=34", ["backbone.depth", "50 | 101", "34"]),
        ("input.channel_order=bgrr", ["input.channel_order", '"rgb" | "bgr"', "'bgrr'", "did you mean bgr"]),
        ("input.pixel_mean=[1,2]", ["input.pixel_mean", "3 values", "got 2"]),
        ("rpn.anchors.sizes=[32,64]", ["rpn.anchors.sizes[0]", "tuple[float, ...]", "32"]),
        ("rpn=3", ["rpn", "RPNConfig", "3"]),
        ("rpn={convz: 3}", ["rpn.convz", "rpn.convs"]),
        ("backbone.kind=vgg", ["backbone.kind", "resnet, fbnet, compact", "'vgg'"]),
        ("backbone.stem_width=24", ["backbone.stem_width", "backbone.kind=compact"]),
        ("rpn.proposals.nms_iou", ["rpn.proposals.nms_iou", "key.sub=value"]),
        ("=3", ["key.sub=value"]),
        ("rpn.anchors.sizes=[[32]", ["rpn.anchors.sizes", "cannot read"]),
        ("name=!!python/object/apply:os.getcwd []", ["name", "cannot read"]),
        ("rpn.proposals.nms_iou=${oc.env:HOME}", ["rpn.proposals.nms_iou", "float"]),
    ],
)
def test_what_does_not_fit_is_named(text: str, says: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is tested
        override(model_config("mask_rcnn_r50_fpn"), [text])
    for part in says:
        assert part in str(error.value)


def test_a_part_that_is_off_says_how_to_turn_it_on() -> None:
    with pytest.raises(ValueError, match=r"mask is off here \(null\); set mask=\{\} first"):
        override(model_config("faster_rcnn_r50_fpn"), ["mask.width=64"])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_survives_json(name: str) -> None:
    config = model_config(name)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_every_leaf_path_can_be_set_to_what_it_is() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    rows = [row for row in describe(config) if row.default is not None]
    assert len(rows) > 50
    for row in rows:
        assert override(config, [f"{row.path}={json.dumps(row.default)}"]) == config
        assert row.path in leaf_paths(DetectorConfig)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["rpn"].update(convz=1), "rpn.convz"),
        (lambda d: d["rpn"]["proposals"].update(nms_iou="high"), "rpn.proposals.nms_iou: want float"),
        (lambda d: d["backbone"].pop("kind"), "backbone.kind: want one of resnet"),
        (lambda d: d.update(box=[]), "box: want"),
        (lambda d: d.pop("name"), "name is missing"),
        (lambda d: d.update(box=None), "box: want BoxHeadConfig, got None"),
    ],
)
def test_a_damaged_dict_is_refused(change, says: str) -> None:
    settings = config_to_dict(model_config("mask_rcnn_r50_fpn"))
    change(settings)
    with pytest.raises(ValueError, match=says.replace("[", r"\[")):
        config_from_dict(settings)


@dataclass(frozen=True)
class Solver:
    """Settings of another module, such as the training's."""

    rate: float = 0.02  # for a batch of 16
    steps: tuple[int, ...] = (60000, 80000)
    note: str | None = None
    # where to stop:
    # at a step, or never
    stop: int | None = None
    kind: Literal["sgd", "adamw"] = "sgd"
    rpn: RPNConfig = field(default_factory=RPNConfig)


def test_any_dataclass_of_settings() -> None:
    assert override(Solver(), ["rate=1", "steps=[1,2,3]", "note=hello", "stop=5", "rpn.convs=2"]) == Solver(
        rate=1.0, steps=(1, 2, 3), note="hello", stop=5, rpn=RPNConfig(convs=2)
    )
    with pytest.raises(ValueError, match="did you mean adamw"):
        override(Solver(), ["kind=adam"])


def test_descriptions_are_the_comments_of_the_source() -> None:
    rows = {row.path: row for row in describe(Solver)}
    assert rows["rate"] == ("rate", "float", 0.02, "for a batch of 16")
    assert rows["stop"] == ("stop", "int | null", None, "where to stop: at a step, or never")
    assert rows["rpn.proposals.nms_iou"].comment.startswith("of two proposals of a level")
    rows = {row.path: row for row in describe(DetectorConfig)}
    assert rows["name"].default is dataclasses.MISSING
    kinds = ("ResNetConfig", "FBNetConfig", "CompactConfig", "MobileNetConfig", "TimmConfig", "ViTConfig")
    assert rows["backbone"].type == " | ".join(kinds)
    assert rows["input.resize"].comment.startswith("antialias: Pillow's bilinear on uint8")
    assert rows["mask.pooler.size"].default == 14
    assert rows["box.selection.nms_iou"].default == BoxHeadConfig().selection.nms_iou
    of_instance = {row.path for row in describe(model_config("faster_rcnn_compact"))}
    assert "backbone.stem_width" in of_instance
    assert "backbone.depth" not in of_instance
