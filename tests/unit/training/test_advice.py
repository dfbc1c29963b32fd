"""The defaults that the data decide: each value against one computed by hand, and what is typed wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rcnn.data import Dataset
from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.training.advice import advise_model, advise_training
from rcnn.training.describe import describe_start
from rcnn.training.plan import RunPlan, plan_training
from rcnn.training.request import RunRequest
from rcnn.training.settings import FROM_SCRATCH, LITE, TrainConfig
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training.runs import run


def photos(count: int, size: tuple[int, int], sides: list[float]) -> Dataset:
    """`count` images of `size` (height, width), each with squares of these sides in the corner."""
    box = {"labels": ["thing"] * len(sides), "boxes": [[0, 0, side, side] for side in sides]}
    record = {"file": Path(__file__), "height": size[0], "width": size[1], **box}
    one = Dataset.from_records([record])
    objects = one.objects
    every = np.tile(np.arange(len(sides)), count)
    return replace(
        one,
        image_ids=tuple(range(count)),
        file_names=one.file_names * count,
        sizes=np.tile(one.sizes, (count, 1)),
        objects=objects.subset(every, np.arange(count + 1) * len(sides)),
    )


def training(start: TrainConfig, dataset: Dataset, given: set[str] | None = None, validation: int = 6) -> TrainConfig:
    """`start` with the advice for `dataset`."""
    advice = advise_training(start, start, dataset, validation, given or set(), min_size=480, processes=1)
    assert {f"train.{name}" for name in advice.training} == set(advice.reasons)
    assert all(advice.reasons.values())
    return replace(start, **advice.training)


@pytest.mark.parametrize(
    ("start", "images", "objects", "steps"),
    [
        (LITE, 13, 9, 300),  # 600 images, as many as the start has at least
        (LITE, 61, 4, 375),  # 600 x 5 / 4 = 750 images, more than 12 epochs (732)
        (LITE, 61, 1, 500),  # the factor is limited to 5 / 3
        (LITE, 1000, 4, 6000),  # 12 epochs
        (FROM_SCRATCH, 100, 5, 1000),
        (TrainConfig(), 500, 7, 1500),  # 12 epochs, 4 per step
    ],
)
def test_the_steps_follow_from_images_and_objects(start: TrainConfig, images: int, objects: int, steps: int) -> None:
    chosen = training(start, photos(images, (480, 640), [50.0] * objects))
    assert chosen.steps == steps
    assert chosen.evaluate_every == max(round(steps / 10), 6 // start.batch_size)
    assert chosen.patience == 4


def test_evaluations_follow_steps_and_validation_images() -> None:
    data = photos(61, (480, 640), [50.0] * 4)
    assert training(LITE, data, validation=200).evaluate_every == 100  # 200 images are evaluated per 200 trained on
    typed = training(replace(LITE, steps=5000), data, {"steps"}, validation=200)
    assert (typed.evaluate_every, typed.patience) == (500, 0)  # a typed length has as many evaluations, all of them
    assert training(replace(LITE, steps=40), data, {"steps"}, validation=6).evaluate_every == 4
    assert training(replace(LITE, evaluate_every=7), data, {"steps", "evaluate_every"}).evaluate_every == 7
    without = training(LITE, data, validation=0)
    assert (without.evaluate_every, without.patience) == (LITE.evaluate_every, 0)


@pytest.mark.parametrize(("steps", "warmup"), [(20, 4), (79, 15), (80, None), (1000, None)])
def test_a_short_run_has_a_short_warm_up(steps: int, warmup: int | None) -> None:
    settings = replace(LITE, steps=steps)
    data = photos(20, (480, 640), [50.0])
    advice = advise_training(settings, LITE, data, 0, {"steps"}, min_size=320, processes=1)
    assert LITE.warmup_steps == 20
    assert advice.training.get("warmup_steps") == warmup


def test_what_is_typed_is_kept_and_a_typed_length_turns_early_stopping_off() -> None:
    data = photos(61, (480, 640), [50.0] * 4)
    typed = training(replace(LITE, steps=200), data, {"steps"})
    assert (typed.steps, typed.patience, typed.evaluate_every) == (200, 0, 20)
    assert typed.ema == pytest.approx(1 - 3 / 200)
    assert training(replace(LITE, steps=50), data, {"steps"}).ema == 0
    assert training(replace(LITE, ema=0.5), data, {"ema"}).ema == 0.5
    assert training(replace(LITE, patience=9), data, {"patience"}).patience == 9
    assert training(replace(LITE, scale_range=(300, 400)), data, {"scale_range"}).scales == ()


def test_training_images_are_smaller_than_those_of_prediction() -> None:
    data = photos(61, (480, 640), [50.0] * 4)
    assert training(LITE, data).scales == (288, 352, 416)
    assert training(FROM_SCRATCH, data).scales == ()
    assert training(LITE, data).jitter == 0.2
    assert training(LITE, photos(1000, (480, 640), [50.0])).jitter == 0


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((1280, 1920), 120.0, (704, 1408)),  # 30 pixels at 320: 64 need 682.7 of at most 640: see below
        ((1280, 1920), 160.0, (512, 1024)),  # 40 pixels at 320: 64 need 512
        ((480, 640), 15.0, (480, 960)),  # no larger than the images
        ((1280, 1920), 300.0, (320, 640)),  # 75 pixels at 320 are enough
    ],
)
def test_small_objects_get_a_larger_input(size: tuple[int, int], side: float, expected: tuple[int, int]) -> None:
    model = model_config("mask_rcnn_fbnetv3a_c4")  # a cell per 16 pixels
    advice = advise_model(model, photos(20, size, [side] * 3), (), pretrained=True)
    chosen = (advice.model.get("input.min_size", 320), advice.model.get("input.max_size", 640))
    limit = 640 if expected[0] > 640 else expected[0]
    assert chosen == (limit, 2 * limit)
    for word in ("input.min_size", "input.max_size"):
        typed = advise_model(model, photos(20, size, [side] * 3), {word}, pretrained=True)
        assert not [key for key in typed.model if key.startswith("input.")]


def test_a_canvas_keeps_its_size() -> None:
    model = override(model_config("mask_rcnn_fbnetv3a_c4"), ["input.canvas=640", "input.divisor=0"])
    advice = advise_model(model, photos(20, (1280, 1920), [120.0] * 3), (), pretrained=True)
    assert not [key for key in advice.model if key.startswith("input.")]


def test_many_objects_get_more_proposals_and_few_images_frozen_blocks() -> None:
    model = model_config("mask_rcnn_fbnetv3a_c4")
    crowded = photos(20, (480, 640), [400.0] * 12)
    advice = advise_model(model, crowded, (), pretrained=True)
    assert advice.model == {"rpn.proposals.post_nms": 120, "backbone.frozen_blocks": 8}
    assert (
        advise_model(model, crowded, {"backbone.frozen_blocks", "rpn.proposals.post_nms"}, pretrained=True).model == {}
    )
    assert "backbone.frozen_blocks" not in advise_model(model, crowded, (), pretrained=False).model
    assert (
        "backbone.frozen_blocks" not in advise_model(model, photos(200, (480, 640), [400.0]), (), pretrained=True).model
    )
    large = model_config("mask_rcnn_r50_fpn")
    assert advise_model(large, crowded, (), pretrained=True).model == {}  # 1000 proposals, and 800 pixels are enough


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("data") / "tiny", {"train": 3, "val": 1}, size=(64, 96))


def planned(data: Path, *words: str) -> RunPlan:
    return plan_training(RunRequest(model="mask_rcnn_compact", data=data, overrides=(*TINY_MODEL, *words)))


def test_the_plan_of_a_run_has_the_advice_with_its_reasons(data: Path) -> None:
    plan = planned(data)
    assert (plan.settings.steps, plan.settings.optimizer, plan.settings.patience) == (1667, "adamw", 4)
    assert {"train.steps", "train.evaluate_every", "train.patience"} <= set(plan.advised)
    lines = [line for line in describe_start(plan) if line.startswith("chosen from the data: ")]
    assert len(lines) == len(plan.advised)
    assert (
        "chosen from the data: train.steps=1667 (4,444 epochs of 3 images with 2.0 objects each, 8 per step)" in lines
    )


def test_what_is_typed_wins_in_the_plan(data: Path) -> None:
    plan = planned(data, "train.steps=7", "train.optimizer=sgd")
    assert (plan.settings.steps, plan.settings.optimizer, plan.settings.patience) == (7, "sgd", 0)
    assert not {"train.steps", "train.patience"} & set(plan.advised)


def test_a_typed_number_of_epochs_does_not_swamp_the_run_with_evaluations(data: Path) -> None:
    """12 epochs of 3 images, one per step, are 36 steps: about 10 evaluations, not one at the end only."""
    plan = planned(data, "train.epochs=12", "train.batch_size=1")
    assert (plan.settings.steps, plan.settings.evaluate_every) == (36, 4)
    assert plan.reasons["train.evaluate_every"] == "up to 10 evaluations in the run"
    short = planned(data, "train.steps=2", "train.batch_size=1")  # the validation set has one image
    assert short.settings.evaluate_every == 1
    assert short.reasons["train.evaluate_every"] == "an evaluation has no more images than are trained on before it"


def test_a_length_typed_for_a_resumed_run_turns_early_stopping_off(data: Path, tmp_path: Path) -> None:
    words = (*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0", "train.patience=2")
    run("mask_rcnn_compact", data, tmp_path / "run", words, splits=("train", "none"))
    for typed, patience in (((), 2), (("train.steps=3",), 0), (("train.steps=3", "train.patience=5"), 5)):
        request = RunRequest(
            data=data, output=tmp_path / "run", resume=True, overrides=typed, model="mask_rcnn_compact"
        )
        assert plan_training(request).settings.patience == patience
