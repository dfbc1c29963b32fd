"""Settings as text: what is accepted, and the error messages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pytest

from rcnn.models.config import (
    RPN_SAMPLING,
    BoxHeadConfig,
    CompactConfig,
    DetectorConfig,
    MaskHeadConfig,
    PoolerConfig,
    ResNetConfig,
    RPNConfig,
)
from rcnn.models.overrides import config_from_dict, config_to_dict, override
from rcnn.models.setting_tables import setting_paths, settings_table
from rcnn.models.suggestions import SYNONYMS, near_settings
from rcnn.models.zoo import MODELS, model_config
from rcnn.training.settings import TrainConfig, split_overrides


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
            "rpn.legacy.whole_cells=true",
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


def test_a_dict_has_values_of_python() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    words = ["box.score_threshold=0.25", "mask=null", "input.pixel_mean=[1,2,3.5]", "input.channel_order=bgr"]
    values = {"box.score_threshold": 0.25, "mask": None, "input.pixel_mean": (1, 2, 3.5), "input.channel_order": "bgr"}
    assert override(config, values) == override(config, words)
    assert override(config, {"backbone": CompactConfig(stem_width=16)}).backbone == CompactConfig(stem_width=16)
    assert override(config, {"input.min_size": np.int64(96), "rpn.smooth_l1_beta": 1e-5}).rpn.smooth_l1_beta == 1e-5
    for text in ("0.5", "null", "[", "a: b", "caf\u00e9 \U0001f408", ""):  # a string stays a string
        assert override(config, {"name": text}).name == text
    with pytest.raises(ValueError, match=r"input\.min_size: expected .*, got '640'"):
        override(config, {"input.min_size": "640"})


@pytest.mark.parametrize("settings", [3, None, [("box.score_threshold", 0.5)], [{"mask": None}], b"mask=null"])
def test_settings_of_other_types_are_refused(settings: Any) -> None:
    with pytest.raises(ValueError, match=r"got .* for the overrides; expected KEY=VALUE strings, or a dict"):
        override(model_config("mask_rcnn_r50_fpn"), settings)


def test_parts_are_removed_added_and_replaced() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    assert override(config, ["mask=null", "fpn=null"]).mask is None
    assert override(config, ["mask=null", "mask={}", "mask.width=64"]).mask == MaskHeadConfig(width=64)
    assert override(config, ["mask={trunk: res5}"]).mask == MaskHeadConfig(trunk="res5")
    # a part given in part has the other defaults of its owner, not of its class
    assert override(config, ["rpn.sampling={batch_size: 8}"]).rpn.sampling == replace(RPN_SAMPLING, batch_size=8)
    assert override(config, ["mask={pooler: {sampling_ratio: 2}}"]).mask == MaskHeadConfig(
        pooler=PoolerConfig(size=14, sampling_ratio=2)
    )
    assert override(config, ["backbone.kind=compact"]).backbone == CompactConfig()
    exchanged = override(config, ["backbone={kind: compact, stem_width: 24}"])
    assert exchanged.backbone == CompactConfig(stem_width=24)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("rpn.nms_iuo=0.6", ["rpn.nms_iuo", "rpn.proposals.nms_iou"]),
        ("nms_iou=0.6", ["rpn.proposals.nms_iou", "box.selection.nms_iou"]),
        ("nms_iuo=0.6", ["rpn.proposals.nms_iou", "box.selection.nms_iou"]),
        ("RPN.NMS_IOU=0.6", ["rpn.proposals.nms_iou"]),
        ("xyzzy=1", ["xyzzy", "the settings start with", "backbone"]),
        ("rpn.proposals.nms_iou.more=1", ["rpn.proposals.nms_iou.more", "rpn.proposals.nms_iou"]),
        ("rpn.proposals.nms_iou=high", ["rpn.proposals.nms_iou", "float", "'high'"]),
        ("rpn.proposals.nms_iou=null", ["rpn.proposals.nms_iou", "float", "None"]),
        ("rpn.proposals.nms_iou=.nan", ["rpn.proposals.nms_iou", "finite number", "nan"]),
        ("rpn.sampling.batch_size=2.5", ["rpn.sampling.batch_size", "int", "2.5"]),
        ("rpn.sampling.batch_size=true", ["rpn.sampling.batch_size", "int", "True"]),
        ("rpn.legacy.whole_cells=1", ["rpn.legacy.whole_cells", "bool", "1"]),
        ("backbone.depth=34", ["backbone.depth", "50 | 101", "34"]),
        ("input.channel_order=bgrr", ["input.channel_order", '"rgb" | "bgr"', "'bgrr'", "did you mean bgr"]),
        ("input.pixel_mean=[1,2]", ["input.pixel_mean", "a list of 3 numbers, e.g. [0.5, 0.8, 0.9], got 2"]),
        ("rpn.anchors.sizes=[32,64]", ["rpn.anchors.sizes[0]", "a list of numbers, e.g. [0.5, 0.8]", "32"]),
        ("rpn.anchors.sizes=32", ["a list of lists of numbers, e.g. [[0.5, 0.8], [0.5, 0.8]], got 32"]),
        ("rpn=3", ["rpn", "RPNConfig", "3"]),
        ("rpn={proposals: {nms: 3}}", ["rpn.proposals.nms", "rpn.proposals.nms_iou"]),
        ("backbone.kind=vgg", ["backbone.kind", "resnet, fbnet, compact", "'vgg'"]),
        ("backbone.stem_width=24", ["backbone.stem_width", "backbone.kind=compact"]),
        ("rpn.proposals.nms_iou", ["rpn.proposals.nms_iou", "expected KEY=VALUE"]),
        ("=3", ["expected KEY=VALUE"]),
        ("rpn.anchors.sizes=[[32]", ["rpn.anchors.sizes", "cannot read"]),
        ("name=!!python/object/apply:os.getcwd []", ["name", "cannot read"]),
        ("rpn.proposals.nms_iou=${oc.env:HOME}", ["rpn.proposals.nms_iou", "float"]),
        ("rpn.proposals.nms_iou=2024-99-99", ["rpn.proposals.nms_iou", "cannot read"]),
        ("rpn.proposals.nms_iou=" + "[" * 5000, ["rpn.proposals.nms_iou", "cannot read"]),
        ("rpn.proposals.nms_iou=1e400", ["rpn.proposals.nms_iou", "expected a finite number, got", "inf"]),
        ("rpn.proposals.nms_iou=", ["rpn.proposals.nms_iou", "expected float, got ''"]),
        ("rpn.proposals.pre_nms=99999999999999999999", ["rpn.proposals.pre_nms", "below 2**63"]),
    ],
)
def test_what_does_not_fit_is_named(text: str, says: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the message is what is tested
        override(model_config("mask_rcnn_r50_fpn"), [text])
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 0.001), ("1E+2", 100.0), ("2.5e-2", 0.025), (".5e1", 5.0), ("7", 7.0), (".25", 0.25)]
)
def test_numbers_with_an_exponent_are_numbers(text: str, value: float) -> None:
    assert override(Solver(), [f"rate={text}"]).rate == value


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train.learning_rate", ["train.lr"]),
        ("train.num_workers", ["train.workers"]),
        ("train.bach_size", ["train.batch_size"]),
        ("train.warmup", ["train.warmup_steps"]),
        ("train.checkpoint_evry", ["train.checkpoint_every"]),
        ("learning_rate", ["train.lr"]),
        ("train_lr", ["train.lr"]),
        ("train.xyzzy", []),
    ],
)
def test_a_wrong_key_suggests_what_was_meant(path: str, expected: list[str]) -> None:
    known = [f"train.{name}" for name in setting_paths(TrainConfig)]
    assert near_settings(path, known) == expected


def test_a_training_setting_without_its_prefix_is_recognised() -> None:
    with pytest.raises(ValueError, match=r"the model has no setting 'learning_rate'; did you mean train\.lr=1e-3\?"):
        split_overrides(["learning_rate=1e-3"])


def test_synonyms_lead_to_settings_that_exist() -> None:
    words = {path.rpartition(".")[2] for root in (DetectorConfig, TrainConfig) for path in setting_paths(root)}
    assert {target for targets in SYNONYMS.values() for target in targets} <= words
    assert not set(SYNONYMS) & set(setting_paths(TrainConfig))


def test_the_error_for_a_disabled_part_names_how_to_enable_it() -> None:
    with pytest.raises(ValueError, match=r"mask is off here \(null\); set mask=\{\} first"):
        override(model_config("faster_rcnn_r50_fpn"), ["mask.width=64"])


@pytest.mark.parametrize("name", sorted(MODELS))
def test_every_model_survives_json(name: str) -> None:
    config = model_config(name)
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config


def test_every_setting_can_be_set_to_its_own_value() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    rows = [row for row in settings_table(config) if row.default is not None]
    assert len(rows) > 50
    for row in rows:
        assert override(config, [f"{row.path}={json.dumps(row.default)}"]) == config
        assert row.path in setting_paths(DetectorConfig)


DAMAGES: list[tuple[Callable[[dict[str, Any]], object], str]] = [
    (lambda d: d["rpn"].update(nms=1), "rpn.nms"),
    (lambda d: d["rpn"]["proposals"].update(nms_iou="high"), "rpn.proposals.nms_iou: expected float"),
    (lambda d: d["backbone"].pop("kind"), "backbone: `kind` is missing in .*, with one of resnet"),
    (lambda d: d.update(box=[]), "box: expected"),
    (lambda d: d.pop("name"), "name is missing"),
    (lambda d: d.update(box=None), "box: expected BoxHeadConfig, got None"),
]


@pytest.mark.parametrize(("change", "says"), DAMAGES)
def test_a_damaged_dict_is_refused(change: Callable[[dict[str, Any]], object], says: str) -> None:
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
    rows = {row.path: row for row in settings_table(Solver)}
    assert rows["rate"] == ("rate", "float", 0.02, "for a batch of 16")
    assert rows["stop"] == ("stop", "int | null", None, "where to stop: at a step, or never")
    assert rows["rpn.proposals.nms_iou"].comment.startswith("of two proposals of a level")
    rows = {row.path: row for row in settings_table(DetectorConfig)}
    assert rows["name"].default is dataclasses.MISSING
    parts = ("ResNet", "FBNet", "Compact", "MobileNet", "MobileNetV1", "VGG", "Timm", "ViT", "OwnBackbone")
    kinds = [f"{part}Config" for part in parts]
    assert rows["backbone"].type == " | ".join(kinds)
    assert rows["input.resize"].comment.startswith("antialias: Pillow's bilinear on uint8")
    assert rows["mask.pooler.size"].default == 14
    assert rows["box.selection.nms_iou"].default == BoxHeadConfig().selection.nms_iou
    of_instance = {row.path for row in settings_table(model_config("faster_rcnn_compact"))}
    assert "backbone.stem_width" in of_instance
    assert "backbone.depth" not in of_instance


def test_one_string_is_one_setting() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    assert override(config, "box.score_threshold=0.5").box.score_threshold == 0.5
    with pytest.raises(ValueError, match=r"'str' is not a setting; expected KEY=VALUE"):
        override(config, "str")


def test_an_unknown_model_gets_similar_names_only() -> None:
    with pytest.raises(ValueError, match=r"no model named 'nope'; `rcnn models list` prints all names$"):
        model_config("nope")
    with pytest.raises(ValueError, match=r"did you mean mask_rcnn_compact or \w+ or \w+\? `rcnn models list`"):
        model_config("mask_rcnn_compct")


def test_a_dict_with_keys_that_are_no_names_is_refused() -> None:
    with pytest.raises(ValueError, match=r"cannot use \{\(1, 2\): 3\} as the value of a setting: keys must be str"):
        override(model_config("mask_rcnn_compact"), {"backbone": {(1, 2): 3}})
