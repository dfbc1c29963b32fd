"""Settings and schedule of training: rates computed by hand; errors name the key, the expected value, and near keys."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import nn

from rcnn.evaluation.plan import Plan
from rcnn.models.config import DetectorConfig, MaskHeadConfig
from rcnn.models.overrides import config_to_dict, override
from rcnn.training.length import changed_by, keys_of
from rcnn.training.schedule import learning_rate, require_one_schedule, schedule_warnings, set_learning_rate
from rcnn.training.settings import RANGES, TrainConfig, split_overrides
from rcnn.training.state import build_optimizer
from rcnn.training.validation import require_measured


@dataclass(frozen=True)
class Recipe:
    """What the command line changes: the settings under their prefix."""

    train: TrainConfig = field(default_factory=TrainConfig)


def test_rates_by_hand() -> None:
    settings = TrainConfig(
        steps=90, batch_size=2, accumulate=4, lr=0.02, reference_batch=16, warmup_steps=10, warmup_factor=0.1
    )  # 8 images a step, so 0.01 after warm-up; milestones at steps 60 and 80
    rates = {step: learning_rate(step, settings) for step in (0, 5, 9, 10, 59, 60, 79, 80, 89)}
    assert rates == pytest.approx(
        {0: 0.001, 5: 0.0055, 9: 0.0091, 10: 0.01, 59: 0.01, 60: 0.001, 79: 0.001, 80: 0.0001, 89: 0.0001}, rel=1e-12
    )


def test_rate_is_that_of_pytorchs_warmup_and_steps() -> None:
    settings = TrainConfig(steps=45, batch_size=16, lr=0.1, warmup_steps=7, warmup_factor=0.25)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.25, total_iters=7)
    falls = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=[30, 40])
    for step in range(45):
        assert learning_rate(step, settings) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9), step
        optimizer.step()
        warmup.step()
        falls.step()


def test_no_warmup_and_no_milestones() -> None:
    settings = TrainConfig(steps=5, batch_size=16, warmup_steps=0, milestones=())
    assert [learning_rate(step, settings) for step in range(5)] == [0.02] * 5


@pytest.mark.parametrize(("batch", "accumulate", "rate"), [(16, 1, 0.02), (4, 1, 0.005), (32, 2, 0.08)])
def test_rate_is_scaled_to_the_images_of_a_step(batch: int, accumulate: int, rate: float) -> None:
    settings = TrainConfig(batch_size=batch, accumulate=accumulate)
    assert settings.images_per_step() == batch * accumulate
    assert settings.scaled_lr() == pytest.approx(rate)
    assert learning_rate(500, settings) == pytest.approx(rate)


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("train.stesp=5", ["train.stesp", "train.steps"]),
        ("train.steps=many", ["train.steps", "int", "many"]),
        ("train.steps=0", ["train.steps", "0", "1 to 1,000,000,000"]),
        ("train.lr=-1", ["train.lr", "-1", "0 to 100"]),
        ("train.lr=1e9", ["train.lr", "0 to 100"]),
        ("train.momentum=1", ["train.momentum is 1.0", "less than 1"]),
        ("train.batch_size=1000000000", ["train.batch_size", "1 to 65,536"]),
        ("train.decay=100", ["train.decay", "0 to 1"]),
        ("train.flip=2", ["train.flip", "2", "0 to 1"]),
        ("train.milestones=[0.9,0.5]", ["train.milestones", "increasing"]),
        ("train.milestones=[0.5,80]", ["train.milestones", "(0, 1]", "steps above 1"]),
        ("train.padding=buckets", ["train.padding", "bucket"]),
        ("train.bf16=1", ["train.bf16", "bool"]),
        ("train.scales=[0]", ["train.scales", "1 to 65,536"]),
        ("train.best=AP", ["train.best", "segm.AP"]),
        ("train.seed=-1", ["train.seed", "-1", "0 to 2,147,483,647"]),
    ],
)
def test_an_impossible_setting_is_named_with_what_was_expected(word: str, parts: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the parts are what is matched
        override(Recipe(), [word])
    for part in parts:
        assert part in str(error.value), str(error.value)


def test_every_number_has_a_range() -> None:
    """Numbers of a run are limited by RANGES; those between 0 and less than 1, by their own rule."""
    settings = config_to_dict(TrainConfig())
    numbers = {name for name, value in settings.items() if type(value) in (int, float)}
    assert numbers | {"milestones", "scales", "scale_range"} == RANGES.keys() | {"ema", "momentum"}
    for name in numbers:
        with pytest.raises(ValueError, match=rf"train\.{name} is -1(\.0)?; expected "):
            override(TrainConfig(), f"{name}=-1")


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.lr: expected a finite number, got nan"):
        TrainConfig(lr=float("nan"))


def test_overrides_are_parted_and_typed() -> None:
    model, training = split_overrides(
        ["rpn.proposals.nms_iou=0.6", "train.steps=7", "train.scales=[160,192]", "mask=null"]
    )
    assert model == ["rpn.proposals.nms_iou=0.6", "mask=null"]
    changed = override(Recipe(), training).train
    assert changed == replace(TrainConfig(), steps=7, scales=(160, 192))


@pytest.mark.parametrize("word", ["steps=5", "lr=0.1", "bf16=true"])
def test_a_training_setting_without_its_prefix_is_reported(word: str) -> None:
    with pytest.raises(ValueError, match=f"did you mean train.{word}"):
        split_overrides([word])


def test_best_must_be_something_that_is_measured() -> None:
    boxes_only = DetectorConfig(name="boxes")
    require_measured("", boxes_only)
    require_measured("bbox.AP50", boxes_only)
    with pytest.raises(ValueError, match=r"train\.best=segm\.AP"):
        require_measured("segm.AP", boxes_only)
    with pytest.raises(ValueError, match=r"bbox\.AP50"):
        require_measured("bbox.AP5", boxes_only)
    masks = replace(boxes_only, mask=MaskHeadConfig())
    require_measured("segm.AP70", masks, Plan(kinds=("bbox", "segm"), metric="voc2012"))
    require_measured("segm.APr", masks, Plan(kinds=("bbox", "segm"), metric="lvis"))
    with pytest.raises(
        ValueError, match=r"train\.best=segm\.AP75 is not a metric of this model; expected e\.g\. segm\.AP70"
    ):
        require_measured("segm.AP75", masks, Plan(kinds=("bbox", "segm"), metric="voc2012"))


def test_norms_have_their_own_decay_and_frozen_parameters_are_skipped() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 5, 1))
    layers[3].requires_grad_(False)
    optimizer = build_optimizer(layers, TrainConfig(weight_decay=0.5, norm_weight_decay=0.25, momentum=0.8))
    groups = {group["weight_decay"]: group for group in optimizer.param_groups}
    assert set(groups) == {0.5, 0.25}
    assert {id(p) for p in groups[0.5]["params"]} == {id(p) for p in layers[0].parameters()}
    assert {id(p) for p in groups[0.25]["params"]} == {id(p) for m in (layers[1], layers[2]) for p in m.parameters()}
    assert all(group["momentum"] == 0.8 for group in optimizer.param_groups)


def test_the_backbone_has_its_own_learning_rate() -> None:
    """One step of AdamW moves a weight by the learning rate, against the sign of its gradient."""
    detector = nn.ModuleDict({name: nn.Conv2d(1, 1, 1, bias=False) for name in ("backbone", "fpn")})
    settings = TrainConfig(optimizer="adamw", weight_decay=0.0, backbone_lr=0.1)
    optimizer = build_optimizer(detector, settings)
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    for parameter in detector.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    set_learning_rate(optimizer, 0.01)
    optimizer.step()
    moved = {name: (before[name] - value).item() for name, value in detector.state_dict().items()}
    assert moved == pytest.approx({"backbone.weight": 0.001, "fpn.weight": 0.01}, rel=1e-4)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.final_lr=0.1"], ["train.final_lr=0.1 is used with train.cosine=true only"]),
        (["train.final_lr=0.1", "train.cosine=true"], []),
        (["train.milestones=[20, 500]"], ["train.milestones: 500 is not less than train.steps=30"]),
        (["train.milestones=[0.5, 1]"], []),
        (["train.warmup_steps=30"], ["train.warmup_steps=30 is not less than train.steps=30"]),
    ],
)
def test_settings_of_the_schedule_without_effect(words: list[str], expected: list[str]) -> None:
    settings = changed_by(TrainConfig(steps=30, warmup_steps=0), words)
    found = list(schedule_warnings(settings, keys_of(words)))
    assert len(found) == len(expected)
    assert all(line.startswith(start) for line, start in zip(found, expected, strict=True))


def test_typed_milestones_and_a_cosine_are_refused_together() -> None:
    settings = TrainConfig(cosine=True, milestones=(0.5,))
    with pytest.raises(ValueError, match=r"train\.cosine=true and train\.milestones=\[0\.5\] both set when"):
        require_one_schedule(settings, {"cosine", "milestones"})
    require_one_schedule(settings, {"cosine"})
    assert [line[:35] for line in schedule_warnings(settings, {"milestones"})] == [
        "train.milestones is not used with t"
    ]


def test_seconds_that_no_clock_has_are_refused() -> None:
    with pytest.raises(ValueError, match=r"train\.watchdog is .*; expected 0 to 1,000,000,000"):
        TrainConfig(watchdog=1e14)
