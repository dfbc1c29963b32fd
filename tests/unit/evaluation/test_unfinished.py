"""An evaluation that is stopped and its files beside those of an earlier one; requests that are refused at once."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from rcnn.data import open_dataset
from rcnn.data.held_out import held_out_part
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.evaluate import ImageResults, evaluate_dataset
from rcnn.evaluation.folder import UNFINISHED, results_as_they_come
from rcnn.evaluation.opening import held_out_of
from rcnn.evaluation.plan import EvaluationOptions
from rcnn.evaluation.results import has_proposals, read_results
from rcnn.evaluation.run import RUN_LOG, run_evaluation
from rcnn.outputs import OutputFolder
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.training.found_run import LOG
from tests.tiny_data import CLASSES, write_tiny_coco
from tests.unit.evaluation.test_evaluate import change_annotations, without_outlines


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images for validation."""
    return write_tiny_coco(tmp_path / "data", {"val": 3}, size=(64, 96))


def test_a_later_evaluation_that_is_stopped_is_the_one_that_is_scored(
    predictor: Predictor, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, out = open_dataset(data, "val", CLASSES), tmp_path / "out"
    start = partial(run_evaluation, output=out, options=EvaluationOptions(pictures=0), title="t", details={}, log=print)
    start(predictor, held_out_part(dataset, [1, 2]))
    earlier = (out / "results_bbox.json").read_text()
    detect, images = Predictor.detect, list[Tensor]()

    def stop_at_the_third(self: Predictor, *arguments: Any) -> list[ImageDetections]:
        images.extend(arguments[0])
        if len(images) == 3:
            raise KeyboardInterrupt
        return detect(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Predictor, "detect", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            start(predictor, dataset)
    lines = (out / UNFINISHED).read_text().splitlines()
    assert [one for line in lines for one in json.loads(line)] == read_results(out).results
    assert held_out_of(out) is None, "the images of the stopped evaluation"
    for file in ("results_bbox.json", "results_segm.json"):  # of the earlier one
        held_out = held_out_of(out / file)
        assert held_out is not None
        assert held_out.files == (dataset.file_names[1], dataset.file_names[2])
    assert (out / "results_bbox.json").read_text() == earlier
    scored = start(out, dataset)  # into the same folder
    assert scored.metrics == evaluate_dataset(predictor, dataset, limit=len(lines)).metrics
    assert not (out / UNFINISHED).exists()
    for line in dataset.file_names:
        (data / "val" / line).write_bytes(b"")
    complete = read_results(out).results
    with pytest.raises(ValueError, match="none of 3 images could be evaluated"):
        start(predictor, dataset)
    assert read_results(out).results == complete


def test_an_evaluation_that_fails_at_once_keeps_the_results_of_a_stopped_one(tmp_path: Path) -> None:
    """Until the first image that can be read; the images before it are lines without results."""
    image, out = partial(ImageResults, record=None), tmp_path / "out"  # type: ignore[arg-type]
    result = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}
    with OutputFolder(out) as folder, results_as_they_come(folder, proposals=True) as keep:
        keep(image(results=(result,)))
    earlier = [(out / name).read_text() for name in (UNFINISHED, "unfinished.json")]
    with OutputFolder(out) as folder, results_as_they_come(folder) as keep:
        keep(image(error="damaged"))
    assert [(out / name).read_text() for name in (UNFINISHED, "unfinished.json")] == earlier
    with OutputFolder(out) as folder, results_as_they_come(folder) as keep:
        keep(image(error="damaged"))
        keep(image(results=(result | {"image_id": 2},)))
    assert not has_proposals(out)
    assert [json.loads(line) for line in (out / UNFINISHED).read_text().splitlines()] == [
        [],
        [result | {"image_id": 2}],
    ]


def test_the_folder_of_a_run_keeps_its_report(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "run") as folder:
        folder.claim("log.jsonl").write_text("{}")
        folder.write_text("report.html", "of the run")
    assert RUN_LOG == LOG
    with pytest.raises(FileExistsError, match=r"run is the folder of a training run, .* e\.g\. \S+run/eval"):
        evaluate(predictor, data, output=tmp_path / "run")
    assert (tmp_path / "run" / "report.html").read_text() == "of the run"


def test_proposals_of_a_stopped_evaluation_are_scored_as_proposals(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as folder, results_as_they_come(folder, proposals=True) as keep:
        keep(ImageResults(record=None, results=({"image_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5},)))  # type: ignore[arg-type]
    assert has_proposals(tmp_path / "out")
    assert read_results(tmp_path / "out").kinds == ("bbox", "proposals")


def test_boundary_ap_of_boxes_is_refused_before_the_first_prediction(
    predictor: Predictor, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_annotations(data, without_outlines)
    monkeypatch.setattr(Predictor, "detect", None)
    for output in (None, tmp_path / "out"):
        with pytest.raises(ValueError, match=r"there are none in .*instances_val\.json\. Leave --boundary out"):
            evaluate(predictor, data, boundary=True, output=output)


@pytest.mark.parametrize("name", ["limit", "batch_size", "workers", "pictures"])
def test_numbers_out_of_range_are_refused(name: str, predictor: Predictor, data: Path) -> None:
    least = int(name == "batch_size")
    options: dict[str, Any] = {name: least - 1}
    with pytest.raises(ValueError, match=f"{name}={least - 1}; expected {least} or more"):
        evaluate(predictor, data, **options)
