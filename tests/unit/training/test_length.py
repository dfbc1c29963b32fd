"""The length of a run: COCO's schedules as published, epochs, and which setting wins."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rcnn.training.length import changed_by, length_warning, with_length, with_rest
from rcnn.training.log import seconds_per_step
from rcnn.training.schedule import learning_rate, milestone_steps
from rcnn.training.settings import TrainConfig

# end and drops in thousands of steps of 8 images (tensorpack's config.py), Detectron2's in steps of 16
TENSORPACK = {"1x": (120, 160, 180), "2x": (240, 320, 360), "3x": (420, 500, 540), "4x": (600, 680, 720)}
TENSORPACK |= {"6x": (960, 1040, 1080), "9x": (1500, 1580, 1620)}
DETECTRON2 = {"1x": (60, 80, 90), "3x": (210, 250, 270)}


def of_schedule(schedule: str, batch: int) -> TrainConfig:
    settings = changed_by(TrainConfig(batch_size=batch), [f"train.schedule={schedule}"])
    return with_length(settings, images=118_287, processes=1, given={"schedule"})[0]


@pytest.mark.parametrize(("table", "batch"), [(TENSORPACK, 8), (DETECTRON2, 16)])
def test_schedules_of_coco(table: dict[str, tuple[int, int, int]], batch: int) -> None:
    for schedule, thousands in table.items():
        settings = of_schedule(schedule, batch)
        assert (*milestone_steps(settings), settings.steps) == tuple(1000 * part for part in thousands), schedule


def test_a_schedule_is_shorter_with_more_images_per_step() -> None:
    settings = TrainConfig(batch_size=1, schedule="9x")
    settings, reasons = with_length(settings, images=118_287, processes=64, given=())
    assert (settings.steps, milestone_steps(settings)) == (202_500, [187_500, 197_500])  # Detectron2's 9x
    assert reasons["steps"] == "9x: 12.96 million images, 64 per step"


def test_epochs() -> None:
    settings = changed_by(TrainConfig(batch_size=2, accumulate=2), ["train.epochs=1.5"])
    settings, reasons = with_length(settings, images=100, processes=2, given={"epochs"})
    assert settings.steps == 19  # 150 images, 8 per step
    assert reasons == {"steps": "1.5 epochs of 100 images, 8 per step"}


@pytest.mark.parametrize(
    ("earlier", "each", "done", "epochs", "steps"),
    [
        (16, 64, 400, 12, 600),  # of 19,200 images, 12,800 are left: 200 steps
        (64, 16, 100, 12, 900),
        (16, 64, 400, 24, 900),  # and 19,200 more
        (16, 64, 400, 3, 400),  # nothing is left
    ],
)
def test_a_run_with_other_images_per_step_goes_on_for_the_images_that_are_left(
    earlier: int, each: int, done: int, epochs: float, steps: int
) -> None:
    now = TrainConfig(batch_size=each, epochs=epochs, steps=int(epochs) * 1600 // each)
    settings, reasons = with_rest(now, done=done, done_images=done * earlier, images=1600, each=each)
    assert settings == replace(now, steps=steps)
    assert reasons == {"steps": f"{done} steps done, then the images that are left, {each} per step"}


def test_steps_of_a_recipe_are_scaled_to_the_images_and_typed_steps_are_not() -> None:
    settings = TrainConfig(batch_size=2, steps=1000)
    assert with_length(settings, images=9, processes=4, given=(), published=1)[0].steps == 125
    assert with_length(settings, images=9, processes=4, given={"steps"}, published=1)[0].steps == 1000


def test_the_last_length_wins_and_two_at_once_are_refused() -> None:
    recipe = changed_by(TrainConfig(), ["train.schedule=1x"])
    assert changed_by(recipe, ["train.steps=7"]) == TrainConfig(steps=7)
    assert changed_by(recipe, ["train.epochs=2"]) == TrainConfig(epochs=2.0)
    with pytest.raises(ValueError, match=r"train\.steps and train\.epochs both set the length of the run"):
        changed_by(recipe, ["train.steps=7", "train.epochs=2"])
    with pytest.raises(ValueError, match=r"train\.schedule: expected one of .*, got '10x'$"):
        changed_by(recipe, ["train.schedule=10x"])


def test_typed_milestones_stay() -> None:
    settings = changed_by(TrainConfig(batch_size=16), ["train.schedule=1x", "train.milestones=[50000]"])
    settings, _ = with_length(settings, images=9, processes=1, given={"schedule", "milestones"})
    assert milestone_steps(settings) == [50_000]
    assert learning_rate(49_999, settings) == pytest.approx(0.02)
    assert learning_rate(50_000, settings) == pytest.approx(0.002)


def test_a_cosine_by_hand() -> None:
    settings = TrainConfig(steps=100, batch_size=16, lr=0.1, warmup_steps=0, cosine=True, final_lr=0.2)
    rates = [learning_rate(step, settings) for step in (0, 50, 100)]
    assert rates == pytest.approx([0.1, 0.06, 0.02])


def test_a_schedule_of_coco_on_few_images_is_reported(tmp_path: Path) -> None:
    settings = of_schedule("1x", 16)
    assert length_warning(settings, images=118_287, processes=1) == []
    [line] = length_warning(settings, images=200, processes=1)
    assert "on 200 images it is 90,000 steps, about 7,200 epochs. Set train.epochs" in line
    log = tmp_path / "log.jsonl"
    [unknown] = length_warning(settings, images=200, processes=1, pace=lambda: seconds_per_step(log))
    assert unknown == line
    log.write_text('{"step": 0, "seconds": 9.0, "loss": 1}\n{"step": 9, "seconds": 20, "bbox_AP": 0.5}\n{"step": 12}\n')
    [line] = length_warning(settings, images=200, processes=1, pace=lambda: seconds_per_step(log))
    assert "about 7,200 epochs, about 50.0 hours at the speed of the run so far. Set" in line  # 90,000 x 2 s


def test_a_range_of_scales_contains_every_size() -> None:
    assert TrainConfig(scale_range=(640, 643)).drawn_scales == (640, 641, 642, 643)
    assert TrainConfig(scales=(320, 480)).drawn_scales == (320, 480)
    with pytest.raises(ValueError, match=r"train\.scale_range is \[800, 640\]"):
        TrainConfig(scale_range=(800, 640))
    with pytest.raises(ValueError, match="give one of them"):
        TrainConfig(scale_range=(640, 800), scales=(640,))
