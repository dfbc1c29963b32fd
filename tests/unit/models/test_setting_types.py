"""Dataclasses of settings that are made in Python are checked like KEY=VALUE settings, with the same messages."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

import rcnn
from rcnn.data.transforms.steps import Blur, ColourJitter, ScaleJitter
from rcnn.models import build_detector, model_config
from rcnn.models.config import (
    BoxHeadConfig,
    CompactConfig,
    KeypointHeadConfig,
    MaskHeadConfig,
    OwnBackboneConfig,
    ResNetConfig,
)
from rcnn.models.overrides import override
from rcnn.models.setting_tables import field_types
from rcnn.models.setting_types import with_types

WRONG: dict[Any, tuple[Any, ...]] = {  # the type of a field -> values of other types
    int: (None, "5", 0.5, True, [5], np.zeros(2), 10**400, 10**5000),
    float: (None, "0.5", True, [0.5], float("nan"), 10**400, 10**5000),
    bool: (None, "yes", 1, 0.5),
    str: (None, 5, ["bbox.AP"]),
}
OTHERS = (None, 5, "foo", {"a": 1}, object(), np.zeros(3))  # for lists and choices


@pytest.mark.parametrize("name", [field.name for field in fields(rcnn.TrainConfig)])
def test_every_training_setting_is_checked_against_its_type(name: str) -> None:
    hint = field_types(rcnn.TrainConfig)[name]
    for value in WRONG.get(hint, OTHERS):
        if isinstance(value, dict) and name in ("lr_factors", "weight_decays"):
            continue  # a value that is right
        with pytest.raises(ValueError, match=rf"^train\.{name}(\[0\])?(:| is) .*expected ") as refused:
            rcnn.TrainConfig(**{name: value})
        assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", None), ("steps", "many"), ("optimizer", "foo"), ("momentum", None), ("milestones", None),
     ("lr", True), ("scales", [640.5]), ("trackers", ["tensorbord"]), ("compile", "cuda_graph")],
)  # fmt: skip
def test_the_messages_are_those_of_key_value_settings(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"^{name}") as typed:
        override(rcnn.TrainConfig(), {name: value})
    with pytest.raises(ValueError, match=rf"^train\.{name}") as made:
        rcnn.TrainConfig(**{name: value})  # type: ignore[arg-type]
    assert str(made.value) == f"train.{typed.value}"


def test_values_become_the_types_of_their_fields() -> None:
    made = rcnn.TrainConfig(
        steps=np.int64(7), epochs=2, scales=[640, 800], milestones=np.array([0.5, 0.75]), sync_bn=np.True_  # type: ignore[arg-type]
    )  # fmt: skip
    assert (made.steps, type(made.steps), made.epochs, type(made.epochs)) == (7, int, 2.0, float)
    assert (made.scales, made.milestones, made.sync_bn) == ((640, 800), (0.5, 0.75), True)
    assert made == override(rcnn.TrainConfig(), ["steps=7", "epochs=2", "scales=[640,800]", "milestones=[0.5,0.75]"])
    factors = rcnn.TrainConfig(lr_factors={"*.bias": np.float32(2)}).lr_factors  # type: ignore[dict-item]
    assert (factors, type(factors["*.bias"])) == ({"*.bias": 2.0}, float)
    backbone = ResNetConfig(stages=[2, 3, 4, 5])  # type: ignore[arg-type]
    assert rcnn.DetectorConfig(name="mine", backbone=backbone) == rcnn.DetectorConfig(name="mine")


def test_a_config_of_a_detector_names_the_part_with_the_wrong_value() -> None:
    small = model_config("mask_rcnn_compact")
    parts: dict[str, tuple[dict[str, Any], str]] = {
        "num_classes": ({"num_classes": "3"}, "expected int, got '3'"),
        "box.score_threshold": ({"box": BoxHeadConfig(score_threshold=None)}, "expected float, got None"),  # type: ignore[arg-type]
        "mask.convs": ({"mask": MaskHeadConfig(convs=[1])}, "expected int, got "),  # type: ignore[arg-type]
        "backbone": ({"backbone": "resnet99"}, "expected one of resnet, "),
        "mask": ({"mask": BoxHeadConfig()}, "expected MaskHeadConfig or null, got BoxHeadConfig"),
    }
    for path, (changed, expected) in parts.items():
        with pytest.raises(ValueError, match=rf"^{path}(\.kind)?: {expected}"):
            rcnn.DetectorConfig(**{field.name: getattr(small, field.name) for field in fields(small)} | changed)
    with pytest.raises(ValueError, match=r"^backbone\.widths: expected a list of 4 integers"):
        CompactConfig(widths=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^backbone\.frozen_stages: expected int, got 'all'"):
        ResNetConfig(frozen_stages="all")  # type: ignore[arg-type]
    assert build_detector(small).config == small


def test_steps_of_augmentation_and_target_options_are_checked() -> None:
    with pytest.raises(ValueError, match=r"colour\.hue is 'red'; expected a fraction"):
        ColourJitter(hue="red")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"blur\.sigma is \(None, 1\); expected \[lowest"):
        Blur(sigma=(None, 1))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"scale_jitter\.size is None; expected 1 or more pixels"):
        ScaleJitter(size=None)  # type: ignore[arg-type]
    for name, value in (("masks", ["polygon"]), ("keypoints", "yes"), ("crowds", None), ("pairs", 5), ("pairs", [1])):
        with pytest.raises(ValueError, match=rf"\b{name}(=.*)?; expected "):
            rcnn.TargetOptions(**{name: value})  # type: ignore[arg-type]


def test_settings_of_the_right_types_are_not_made_again() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    assert with_types(config) is config
    assert rcnn.DetectorConfig(name="mine", backbone=config.backbone).backbone is config.backbone
    colours = ColourJitter()
    assert with_types(colours) is colours


@pytest.mark.parametrize("part", [BoxHeadConfig, MaskHeadConfig, KeypointHeadConfig, OwnBackboneConfig])
def test_numbers_of_numpy_in_arguments_become_those_of_python(part: Any) -> None:
    values = {"a": np.int64(3), "b": [np.float32(0.5), np.bool_(True)], "c": {"d": (np.arange(2), torch.tensor(4))}}
    settings = part(**({"factory": "own.py:make"} if part is OwnBackboneConfig else {}), arguments=values)
    assert settings.arguments == {"a": 3, "b": [0.5, True], "c": {"d": [[0, 1], 4]}}
    assert json.loads(json.dumps(settings.arguments)) == settings.arguments, "as a checkpoint stores them"
    with pytest.raises(ValueError, match=r"arguments is .*; expected names with numbers, .* \(set is none of these\)"):
        part(**({"factory": "own.py:make"} if part is OwnBackboneConfig else {}), arguments={"a": [set()]})
