"""Settings that are checked by their names before anything else: the messages are those of the whole check."""

from __future__ import annotations

import dataclasses

import pytest

from rcnn.models import MODELS, model_config
from rcnn.models.overrides import override
from rcnn.models.setting_tables import settings_table
from rcnn.training.length import changed_by
from rcnn.training.setting_names import require_known
from rcnn.training.settings import TrainConfig


@pytest.mark.parametrize(
    "word",
    ["train.stepz=5", "train.lr.x.y=1", "train.steps=many", "train.steps=0", "train.optimizer=sdg", "train.lr=[1"],
)
def test_a_wrong_setting_of_training_has_the_message_of_the_whole_check(word: str) -> None:
    with pytest.raises(ValueError, match=r"train\.") as whole:
        changed_by(TrainConfig(), [word])
    if word.startswith("train.lr.x"):  # found by the whole check only: it may be an entry of a mapping
        require_known([word])
        return
    with pytest.raises(ValueError, match=r"train\.") as early:
        require_known(["rpn.proposals.nms_iou=0.6", word])
    assert str(early.value) == str(whole.value)


@pytest.mark.parametrize("word", ["rpn.proposals.nms_iuo=0.6", "nonsense=1", "steps=3", "Train.lr=1"])
def test_a_setting_that_no_model_has_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"did you mean|the settings start with|expected train") as early:
        require_known([word])
    if word.startswith(("rpn", "nonsense")):
        with pytest.raises(ValueError, match="no setting") as whole:
            override(model_config("mask_rcnn_compact"), [word])
        assert str(early.value) == str(whole.value)


def test_every_setting_is_known() -> None:
    configs = [model_config(name) for name in MODELS]
    paths = {row.path for config in configs for row in settings_table(config)}
    assert len(paths) > 100
    require_known([f"{path}=1" for path in paths])
    require_known([f"{path.partition('.')[0]}={{}}" for path in paths])
    defaults = {field.name: getattr(TrainConfig(), field.name) for field in dataclasses.fields(TrainConfig)}
    words = [f"train.{name}={value}" for name, value in defaults.items() if isinstance(value, (int, float, str))]
    assert len(words) > 40
    require_known([word for word in words if not word.endswith("=")])
    more = ["train.batch_size=auto", "train.lr_factors={'*.bias': 2}", "train.lr_factors.bias=2", "backbone.kind=vit"]
    require_known(more)
