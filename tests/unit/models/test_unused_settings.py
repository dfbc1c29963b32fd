"""Settings without an effect in a model: refused in predictions and in training, where a user gives them."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.bench.subjects import Request
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.models.unused_settings import override_used
from rcnn.training.chosen_start import choose_start
from rcnn.training.plan import settings_of
from rcnn.training.request import RunRequest
from rcnn.weights.checkpoint import detector_record, load_detector, save_checkpoint


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        (
            "fcis_compact",
            ["box.score_threshold=0.5"],
            r"box\.score_threshold has no effect in fcis_compact: FCIS has no box head; set fcis\.score_threshold$",
        ),
        (
            "fcis_compact",
            ["fcis.nms_iou=0.4", "box={fcs: 1}"],
            r"^box has no effect .* settings start with fcis$",
        ),
        (
            "rpn_r50_fpn",
            ["box.score_threshold=0.5"],
            r"proposals_only=true builds no box head; set rpn\.proposals\.score_threshold$",
        ),
        ("mask_rcnn_compact", ["cascade={}", "box.delta_weights=[1,1,1,1]"], r"set cascade\.delta_weights$"),
        ("mask_rcnn_compact", ["box.sampling.positive_iou=0.6", "cascade={}"], r"set cascade\.ious$"),
    ],
)
def test_a_setting_without_effect_is_refused(name: str, words: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override_used(model_config(name), words)


def test_settings_with_an_effect_are_accepted() -> None:
    for name, words in (
        ("mask_rcnn_compact", ["box.score_threshold=0.5", "box.delta_weights=[1,1,1,1]"]),
        ("fcis_compact", ["fcis.score_threshold=0.5"]),
        ("fcis_compact", ["fcis=null", "box.score_threshold=0.5"]),
        ("cascade_mask_rcnn_compact", ["box.score_threshold=0.5", "cascade.ious=[0.4,0.5,0.6]"]),
    ):
        config = model_config(name)
        assert override_used(config, words) == override(config, words)


def test_other_commands_refuse_it() -> None:
    words = ["box.fc_width=64"]
    with pytest.raises(ValueError, match="has no effect in fcis_compact"):
        settings_of("fcis_compact", words)
    with pytest.raises(ValueError, match="has no effect in fcis_compact"):
        Request(model="fcis_compact", overrides=tuple(words)).config()
    assert Request(model="fcis_compact", overrides=("fcis.width=64",)).config().fcis is not None


def test_predictions_and_training_refuse_it(tmp_path: Path) -> None:
    detector = build_detector(override(model_config("fcis_compact"), ["num_classes=1", "fcis.width=16"]))
    save_checkpoint(tmp_path / "fcis", detector, detector.config, ("cat",), {})
    for read in (detector_record, load_detector):
        with pytest.raises(ValueError, match=r"box\.score_threshold has no effect in fcis_compact"):
            read(tmp_path / "fcis", ["box.score_threshold=0.5"])
    request = RunRequest(model="fcis_compact", data=tmp_path, weights="none", overrides=("box.fc_width=64",))
    with pytest.raises(ValueError, match=r"box\.fc_width has no effect in fcis_compact"):
        choose_start(request, None, str, download=False)
