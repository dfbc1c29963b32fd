"""`rcnn models list`: which weights a model's name stands for."""

from __future__ import annotations

import pytest

from rcnn.models import DetectorConfig, model_config
from rcnn.models.overrides import override
from rcnn.models.zoo import MODELS
from tests.command import rcnn


@pytest.fixture(scope="module")
def rows() -> dict[str, list[str]]:
    """The words of each line by the name of the model."""
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []

        def echo(text: str) -> None:
            lines.extend(text.splitlines())

        patch.setattr("typer.echo", echo)
        assert rcnn("models", "list") == 0
    return {words[0]: words for line in lines if (words := line.split())[0] in MODELS}


def test_every_model_is_listed(rows: dict[str, list[str]]) -> None:
    assert list(rows) == list(MODELS)


@pytest.mark.parametrize(
    ("model", "weights"),
    [
        ("mask_rcnn_lite0_fpn", ["ImageNet"]),  # in the package
        ("fcis_r101_sbd_chainercv", ["ImageNet", "+2"]),  # trained on SBD
        ("mask_rcnn_compact", ["-"]),
    ],
)
def test_models_without_coco_weights(rows: dict[str, list[str]], model: str, weights: list[str]) -> None:
    assert rows[model][7:] == weights


def test_the_default_weights_and_the_number_of_others(rows: dict[str, list[str]]) -> None:
    assert rows["mask_rcnn_r50_fpn"][7] == "torchvision"
    assert int(rows["mask_rcnn_r50_fpn"][8]) > 0


def test_what_show_prints_is_read_back(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    base = model_config("keypoint_rcnn_r50_fpn")
    names = ["yes", "1", "a: b", "c, d", "e #f", " g ", "null", "*.h", "left eye"]
    config = override(base, {"keypoint.names": names, "keypoint.flip_pairs": []})

    def changed(model: str, allow: object) -> DetectorConfig:
        return config

    monkeypatch.setattr("rcnn.training.starting.starting_config", changed)
    assert rcnn("models", "show", "keypoint_rcnn_r50_fpn") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("keypoint.")]
    assert any("left eye" in line for line in lines)
    assert override(base, lines).keypoint == config.keypoint
