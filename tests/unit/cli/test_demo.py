"""What `rcnn demo` prints at its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from rcnn.demo.run import Demo
from rcnn.metrics.values import Metrics
from tests.command import rcnn


def test_a_model_without_masks_has_the_average_precision_of_boxes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = Metrics(
        kinds={"bbox": {"AP": 0.25, "AP50": 0.5}}, per_class={}, images=1, objects={}, detections=0, max_detections={}
    )
    page = tmp_path / "report.html"
    done = Demo(metrics=metrics, seconds={"training": 3.0}, report=page, results=page, pictures=(page,), overview=page)

    def run(output: Path, **options: object) -> Demo:
        return done

    monkeypatch.setattr("rcnn.demo.run.run_demo", run)
    assert rcnn("demo", "--output", tmp_path, "mask=null") == 0
    assert "\nbox AP50 0.500; training took 3 s\n" in capsys.readouterr().out
