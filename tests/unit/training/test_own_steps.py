"""`train.augment`: from the command line's text, from Python, with functions of the user's own, and at a resume."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rcnn
from rcnn.data.transforms import Affine, Blur, OwnStep, RandomCrop, Sample, ScaleJitter
from rcnn.given_steps import as_steps
from rcnn.models.overrides import config_from_dict, config_to_dict
from rcnn.training.plan import plan_training, settings_of
from rcnn.training.request import RunRequest
from rcnn.training.settings import TrainConfig
from tests.tiny_data import TINY_MODEL, write_tiny_coco

BRIEF = ("train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0")


def darker(sample: Sample, random: np.random.Generator, factor: float = 0.5) -> Sample:
    return replace(sample, image=(sample.image * factor).byte())


def test_a_list_of_steps_from_python() -> None:
    steps = as_steps(["crop", {"kind": "blur", "probability": 0.2}, Affine(degrees=3), darker])
    assert steps[:3] == (RandomCrop(), Blur(probability=0.2), Affine(degrees=3))
    [own] = as_steps([functools.partial(darker, factor=0.25)])
    assert isinstance(own, OwnStep)
    assert (own.arguments, own.factory.rpartition(":")[2]) == ({"factor": 0.25}, "darker")
    settings = TrainConfig(augment=steps)
    again = config_from_dict(json.loads(json.dumps(config_to_dict(settings))), TrainConfig)
    assert again == settings


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("crop", "augment is 'crop'; expected a list of steps"),
        (["crop", "blurr"], r"augment\[1\].kind: expected one of crop, .*, got 'blurr'; did you mean blur\?"),
        (
            [{"kind": "blur", "sigma": 3}],
            r"augment\[0\].sigma: expected a list of 2 numbers, e\.g\. \[0\.5, 0\.8\], got 3",
        ),
        ([3], r"augment\[0\]: expected one of crop, scale_jitter, .*, got 3"),
    ],
)
def test_what_is_no_step_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_steps(given)


@pytest.mark.parametrize("given", [["crop"], [RandomCrop(), darker], "crop", [{"kind": "blur"}]])
def test_the_settings_take_steps_only(given: Any) -> None:
    """What `rcnn.train` takes is refused where it cannot be understood, with what to write."""
    with pytest.raises(ValueError, match=r"train\.augment.* is .*; expected .*rcnn\.override\(rcnn\.TrainConfig\(\), "):
        TrainConfig(augment=given)
    assert rcnn.override(TrainConfig(), "augment=[crop]").augment == (RandomCrop(),)


def test_scale_jitter_and_scales_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"scale_jitter replaces the resize, but train.scales is \[640\]"):
        TrainConfig(augment=(ScaleJitter(),), scales=(640,))


OWN = """
from dataclasses import replace

def darker(sample, random, factor=0.5):
    return replace(sample, image=(sample.image * factor).byte())
"""


def test_a_run_with_a_function_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record names the function; a resumed run asks for permission, unless the list is given again."""
    monkeypatch.chdir(tmp_path)
    data = write_tiny_coco(tmp_path / "data", {"train": 2})
    (tmp_path / "my_steps.py").write_text(OWN)
    words = (*TINY_MODEL, *BRIEF)
    own = "{kind: own, factory: 'my_steps.py:darker', arguments: {factor: 0.25}}"
    typed = f"train.augment=[{{kind: crop, size: [0.6, 0.9]}}, affine, colour, blur, copy_paste, {own}]"
    rcnn.train("mask_rcnn_compact", data, "run", overrides=(*words, typed), val_split="none", log=str)
    plan = plan_training(
        RunRequest(model="mask_rcnn_compact", data=data, overrides=(*words, typed), device="cpu"), log=str
    )
    assert plan.own_code == ("my_steps.py:darker",)
    recorded = json.loads(Path("run/config.json").read_text())["train"]["augment"]
    assert [step["kind"] for step in recorded] == ["crop", "affine", "colour", "blur", "copy_paste", "own"]
    assert recorded[-1] == {
        "kind": "own",
        "factory": "my_steps.py:darker",
        "arguments": {"factor": 0.25},
        "before_resize": False,
    }
    request = RunRequest(
        model="mask_rcnn_compact", data=data, output=Path("run"), resume=True, overrides=("train.steps=2",)
    )
    with pytest.raises(ValueError, match=r"run/config.json: train.augment names my_steps.py:darker, code .* --allow"):
        plan_training(request, str)
    allowed = plan_training(replace(request, allow=("my_steps.py:darker",)), str)
    assert len(allowed.settings.augment) == 6
    assert allowed.changed == ("train.steps: 1 -> 2",)
    given = plan_training(replace(request, augment=as_steps(["blur"])), str)
    assert given.settings.augment == (Blur(),)
    assert given.reasons["train.augment"] == "given"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "train.augment=[{kind: own, factory: 'gone.py:f'}]",
            r"gone.py:f: gone.py does not exist in [^;]*; expected FILE\.py:NAME",
        ),
        ("train.augment=[{kind: own, factory: 'f'}]", "the function f cannot be imported; expected FILE.py:NAME"),
        ("train.augment=[{kind: crop, size: [0, 2]}]", r"train.augment: crop.size is \[0, 2\]; expected"),
        ("train.augment=[{kind:blur}]", r"\[0\]: `kind` is missing in .* \(a colon in YAML needs a space after it\)"),
        ("train.augment=[{probability: 0.3}]", r"`kind` is missing in \{'probability': 0\.3\}; expected \{kind: crop"),
        ("train.augment=[crp]", r"train.augment\[0\].kind: expected one of .*did you mean crop\?"),
        ("train.augment=crop", "train.augment: expected a list of crop .*, got 'crop'"),
    ],
)
def test_a_faulty_list_is_refused_before_anything_is_written(tmp_path: Path, word: str, message: str) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1})
    request = RunRequest(model="mask_rcnn_compact", data=data, output=tmp_path / "run", overrides=(*TINY_MODEL, word))
    with pytest.raises(ValueError, match=message):
        plan_training(request, str)
    assert not (tmp_path / "run").exists()


def test_the_examples_of_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every list in docs/augmentation.md is accepted, and its function changes a batch."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "augmentation.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "my_steps.py" in block)
    (tmp_path / "my_steps.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    data = write_tiny_coco(tmp_path / "data", {"train": 1})
    quoted = re.findall(r"'(train\.augment=[^']+)'", page)
    lists = [*quoted, *re.findall(r"(?<!')train\.augment=[^\s`']+", page)]
    assert len(lists) >= 5
    for word in lists:
        request = RunRequest(model="mask_rcnn_compact", data=data, overrides=(*TINY_MODEL, word))
        assert plan_training(request, str).settings.augment
    [own] = [word for word in lists if "own" in word]
    settings, input_config = settings_of("mask_rcnn_compact", ["train.batch_size=1", own])
    assert next(rcnn.training_batches(rcnn.open_dataset(data, "train"), input_config, replace(settings, workers=0)))
