"""Evaluation of a predictor and of saved results: metrics, files, and the effect of one bad image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.data import Dataset, open_dataset
from rcnn.drawing.ground_truth import draw_ground_truth
from rcnn.evaluation.api import evaluate
from rcnn.evaluation.evaluate import evaluate_dataset, plan_for
from rcnn.evaluation.examples import draw_example
from rcnn.evaluation.folder import UNFINISHED
from rcnn.evaluation.opening import validation_split
from rcnn.evaluation.plan import EvaluationOptions, limit_overrides, plan_evaluation
from rcnn.evaluation.results import evaluate_results, has_proposals, is_results
from rcnn.evaluation.run import run_evaluation
from rcnn.models import model_config
from rcnn.predictor import Predictor
from tests.tiny_data import CLASSES, write_tiny_coco

Entry = dict[str, Any]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images for validation."""
    return write_tiny_coco(tmp_path / "data", {"train": 1, "val": 3}, size=(64, 96))


def change_annotations(data: Path, change: Callable[[Entry], object]) -> None:
    """Apply `change` to the tables of the validation split."""
    file = data / "annotations" / "instances_val.json"
    tables = json.loads(file.read_text())
    change(tables)
    file.write_text(json.dumps(tables))


def without_outlines(tables: Entry, keep: int = 0) -> None:
    for annotation in tables["annotations"][keep:]:
        del annotation["segmentation"]


def perfect(data: Path, **fields: str) -> list[Entry]:
    """The ground truth as results."""
    tables = json.loads((data / "annotations" / "instances_val.json").read_text())
    keep = ("image_id", "category_id", *fields)
    return [{**{k: a[k] for k in keep}, "score": 0.9} for a in tables["annotations"]]


def test_a_bad_image_is_listed_and_the_others_are_evaluated(predictor: Predictor, data: Path) -> None:
    dataset = open_dataset(data, "val", CLASSES)
    whole = evaluate_dataset(predictor, dataset, batch_size=2)
    assert whole.failed == ()
    assert whole.to_dict()["counts"] | {"objects": None, "detections": None} == {
        "images": 3, "failed": 0, "objects": None, "detections": None,
    }  # fmt: skip
    assert {result["image_id"] for result in whole.results} == {1, 2, 3}
    (data / "val" / "val_2.png").write_bytes(b"not an image")
    seen: list[Any] = []
    done = evaluate_dataset(predictor, dataset, batch_size=2, on_image=lambda image: seen.append(image.record.image_id))
    assert seen == [1, 2, 3]
    assert [image.record.image_id for image in done.failed] == [2]
    assert "val_2.png" in done.failed[0].error
    assert done.results == [result for result in whole.results if result["image_id"] != 2]
    assert done.metrics.images == 3
    assert done.to_dict()["counts"]["failed"] == 1
    assert done.warnings == ("1 of 3 images could not be evaluated and counts as having no detections",)


def test_no_readable_image_at_all_is_an_error(predictor: Predictor, data: Path) -> None:
    dataset = open_dataset(data, "val", CLASSES)
    for path in (data / "val").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 3 images could be evaluated; the first: .*val_1\.png"):
        evaluate_dataset(predictor, dataset)


def test_masks_are_not_evaluated_where_the_data_has_only_boxes(
    predictor: Predictor, data: Path, tmp_path: Path
) -> None:
    change_annotations(data, without_outlines)
    dataset = open_dataset(data, "val", CLASSES)
    plan = plan_for(predictor, dataset)
    assert plan.kinds == ("bbox",)
    assert plan.warnings[0].startswith("masks are not evaluated:")
    lines: list[str] = []
    done = run_evaluation(
        predictor, dataset, tmp_path / "out", options=EvaluationOptions(), title="t", details={}, log=lines.append
    )
    assert list(done.metrics.kinds) == ["bbox"]
    assert lines == [f"warning: {plan.warnings[0]}"]
    assert "masks are not evaluated" in (tmp_path / "out" / "report.html").read_text()


def test_strict_and_allow_empty_reach_the_data_set(predictor: Predictor, data: Path) -> None:
    change_annotations(data, lambda tables: tables["annotations"][0].update(iscrowd="0"))
    assert evaluate(predictor, data).metrics.images == 3
    with pytest.raises(ValueError, match="iscrowd"):
        evaluate(predictor, data, strict=True)
    change_annotations(data, lambda tables: tables["annotations"].clear())
    with pytest.raises(ValueError, match="--allow-empty"):
        evaluate(predictor, data)
    assert evaluate(predictor, data, allow_empty=True).metrics.kinds["bbox"]["AP"] is None


def test_an_object_without_outline_is_drawn_as_a_box(predictor: Predictor, data: Path) -> None:
    change_annotations(data, lambda tables: without_outlines(tables, keep=1))
    dataset = open_dataset(data, "val", CLASSES)
    plan = plan_for(predictor, dataset)
    assert plan.kinds == ("bbox", "segm")
    assert plan.warnings == ()
    assert any("no outline" in line for line in dataset.warnings)
    image = torch.zeros((3, 64, 96), dtype=torch.uint8)
    for record, has_mask in ((dataset[0], True), (dataset[1], False)):
        drawn, boxes = (draw_ground_truth(image, record, predictor.classes, masks=masks) for masks in (True, False))
        assert (drawn.tobytes() != boxes.tobytes()) == has_mask
        assert boxes.getbbox() is not None, "black without its boxes"
    image = dataset[1].read()
    example = draw_example(predictor, dataset[1], image, predictor.predict(image, score=0.99))
    expected = draw_ground_truth(dataset[1].read(), dataset[1], predictor.classes)
    assert example.ground_truth is not None
    assert example.ground_truth.tobytes() == expected.tobytes()
    assert evaluate_dataset(predictor, dataset).metrics.kinds.keys() == {"bbox", "segm"}


def test_results_are_on_disk_as_they_come(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    dataset, out = open_dataset(data, "val", CLASSES), tmp_path / "out"
    lengths: list[int] = []

    class Bar:
        """Counts the lines on disk after each image; stops after the second."""

        def __enter__(self) -> Callable[[], None]:
            return self.step

        def __exit__(self, *error: object) -> None:
            pass

        def step(self) -> None:
            lengths.append(len((out / UNFINISHED).read_text().splitlines()))
            if len(lengths) == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_evaluation(
            predictor, dataset, out, options=EvaluationOptions(), title="t", details={}, log=print,
            progress=lambda name, total: Bar(),  # type: ignore[arg-type, return-value]
        )  # fmt: skip
    assert lengths == [1, 2]
    saved = evaluate_results(out / UNFINISHED, dataset)  # of the two images in the file
    assert saved.metrics == evaluate_dataset(predictor, dataset, limit=2).metrics
    run_evaluation(predictor, dataset, out, options=EvaluationOptions(pictures=1), title="t", details={}, log=print)
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    kept = {"metrics.json", "per_class.csv", "analysis.json", "thresholds.json", "report.html"}
    assert names == kept | {"results_bbox.json", "results_segm.json"}


def test_files_of_the_user_are_not_overwritten(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.json").write_text("mine")
    with pytest.raises(FileExistsError, match=r"metrics\.json exists and was not written by rcnn"):
        run_evaluation(
            predictor, open_dataset(data, "val", CLASSES), tmp_path / "out",
            options=EvaluationOptions(), title="t", details={}, log=print,
        )  # fmt: skip
    assert (tmp_path / "out" / "metrics.json").read_text() == "mine"


def test_results_of_an_earlier_evaluation_are_replaced(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    dataset, out = open_dataset(data, "val", CLASSES), tmp_path / "out"
    options = EvaluationOptions(pictures=0)
    run_evaluation(predictor, dataset, out, options=options, title="t", details={}, log=print)
    assert (out / "results_segm.json").exists()
    change_annotations(data, without_outlines)
    boxes = open_dataset(data, "val", CLASSES)
    done = run_evaluation(predictor, boxes, out, options=options, title="t", details={}, log=print)
    assert not (out / "results_segm.json").exists()
    assert evaluate_results(out, boxes).metrics == done.metrics


def test_a_whole_last_line_of_results_counts(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    """A file of another program may end without a line end; that of a process that was killed ends within a line."""
    dataset = open_dataset(data, "val", CLASSES)
    results = perfect(data, bbox="")
    lines = [json.dumps([one for one in results if one["image_id"] == image]) for image in (1, 2)]
    for text, images in (("\n".join(lines), 2), (f"{lines[0]}\n{lines[1][:-9]}", 1), (lines[0], 1)):
        (tmp_path / "results.jsonl").write_text(text)
        evaluation = evaluate_results(tmp_path / "results.jsonl", dataset)
        assert (evaluation.limit, evaluation.metrics.images) == (images, images)
        assert evaluation.metrics.kinds["bbox"]["AP"] == 1


def test_results_of_a_few_images_are_scored_on_these(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    dataset, out = open_dataset(data, "val", CLASSES), tmp_path / "out"
    options = EvaluationOptions(pictures=0, limit=2)
    done = run_evaluation(predictor, dataset, out, options=options, title="t", details={}, log=print)
    again = evaluate_results(out / "results_segm.json", dataset)
    assert again.metrics.kinds["segm"] == done.metrics.kinds["segm"]
    assert (again.metrics.images, again.limit) == (2, 2)
    assert "results for the first 2 images" in again.warnings[0]
    assert evaluate_results(out / "results_segm.json", dataset, limit=3).metrics.images == 3


def test_the_folder_of_an_evaluation_is_scored_again(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    dataset, out = open_dataset(data, "val", CLASSES), tmp_path / "out"
    options = EvaluationOptions(pictures=0, max_detections=7)
    done = run_evaluation(predictor, dataset, out, options=options, title="t", details={}, log=print)
    assert is_results(out)
    assert not has_proposals(out)
    again = evaluate_results(out, dataset, max_detections=7)
    assert again.metrics == done.metrics
    written = json.loads((out / "metrics.json").read_text())
    assert (written["max_detections"], written["limit"]) == ({"bbox": 7, "segm": 7}, 0)
    assert [name for name in written["bbox"] if name.startswith("AR")] == ["AR1", "AR7", "ARs", "ARm", "ARl"]
    (out / "results_bbox.json").write_text("[]")
    with pytest.raises(ValueError, match=r"results_segm\.json and .*results_bbox\.json have different detections"):
        evaluate_results(out, dataset)


def test_the_only_split_may_be_the_training_set(predictor: Predictor, data: Path) -> None:
    (data / "annotations" / "instances_val.json").unlink()
    [warning, *_] = evaluate(predictor, data).warnings
    assert "instances_train.json is the only split: if the model was trained on these images" in warning
    assert not any("only split" in warning for warning in evaluate(predictor, data, split="train").warnings)
    (data / "annotations" / "instances_train.json").rename(data / "annotations.json")
    (data / "train").rename(data / "images")
    assert "only split" in evaluate(predictor, data).warnings[0]


def test_saved_results_are_scored_again(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    dataset, out = open_dataset(data, "val", CLASSES), tmp_path / "out"
    done = run_evaluation(
        predictor, dataset, out, options=EvaluationOptions(pictures=0), title="t", details={}, log=print
    )
    for kind in ("bbox", "segm"):
        again = evaluate_results(out / f"results_{kind}.json", open_dataset(data, "val"))
        assert again.metrics.kinds == {kind: done.metrics.kinds[kind]}
    results = tmp_path / "mine.json"
    results.write_text(json.dumps(perfect(data, bbox="", segmentation="")))
    assert {k: v["AP"] for k, v in evaluate_results(results, dataset).metrics.kinds.items()} == {"bbox": 1, "segm": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"mine\.json is not JSON"),
        ('{"images": [], "annotations": []}', r"mine\.json has annotations, not results"),
        ("{}", r"mine\.json is not a results file; expected a list"),
        ('[{"image_id": 1}]', r"mine\.json: result 0 has no category_id, score"),
        (
            '[{"image_id": 1, "category_id": 10, "score": 1}]',
            r"mine\.json: expected every result to have the same of the fields .*; result 0 \(image 1\) has none",
        ),
        (
            '[{"image_id": 9, "category_id": 10, "score": 1, "bbox": [1, 2, 3, 4]}]',
            r"image_id 9, which .*instances_val",
        ),
        ("[" * 100_000, r"mine\.json is not JSON"),
        (
            '[{"image_id": 1, "category_id": 10, "score": 1, "bbox": [1, 2, 3, -4]}]',
            r"mine\.json: result 0 \(image 1\) has bbox .*; expected .* a width and height of 0 or more",
        ),
        (
            '[{"image_id": 1, "category_id": 10, "score": 1, "segmentation": {"size": [64, 96], "counts": "!!"}}]',
            r"mine\.json: result 0 \(image 1\) has a mask with counts '!!'; expected RLE counts that add up to 64 x 96",
        ),
        (
            '[{"image_id": 1, "category_id": 10, "score": 1, "segmentation": {"size": [64, 96], "counts": [9, 9]}}]',
            r"has a mask with counts \[9, 9\]; expected RLE",
        ),
    ],
)
def test_a_file_without_results_is_refused(content: str, message: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        evaluate_results(tmp_path / "mine.json", open_dataset(data, "val"))


def crowded(tables: Entry) -> None:
    """150 copies of the first object in its image."""
    first = tables["annotations"][0]
    tables["annotations"] = [{**first, "id": number} for number in range(150)]


def test_more_objects_than_detections_count_are_reported(predictor: Predictor, data: Path) -> None:
    change_annotations(data, crowded)
    dataset = open_dataset(data, "val", CLASSES)
    [warning] = plan_evaluation(("bbox", "segm"), dataset).warnings
    assert warning.startswith("1 image has more than 100 objects of one class (up to 150)")
    assert warning.endswith("max_detections=150 (--max-detections) counts them all")
    assert plan_evaluation(("bbox", "segm"), dataset, max_detections=150).warnings == ()
    assert plan_evaluation(("bbox", "segm"), dataset, metric="lvis").warnings == ()
    [warning] = plan_evaluation(("bbox",), dataset, metric="lvis", max_detections=149).warnings
    assert warning.startswith("1 image has more than 149 objects (up to 150), but at most 149 detections per image")
    with pytest.raises(ValueError, match=r"max_detections=0 \(--max-detections\); expected 1 or more"):
        plan_evaluation(("bbox",), dataset, max_detections=0)


def test_the_models_limit_of_detections_is_raised_or_warned_of(predictor: Predictor, data: Path) -> None:
    dataset, config = open_dataset(data, "val", CLASSES), predictor.config
    assert limit_overrides(config, dataset, max_detections=150) == ["box.selection.max_detections=150"]
    assert limit_overrides(config, dataset, max_detections=50) == limit_overrides(config, dataset) == []
    as_lvis = replace(dataset, metric="lvis")
    assert limit_overrides(config, as_lvis) == ["box.selection.max_detections=300"]
    [warning] = plan_for(predictor, as_lvis).warnings
    assert (
        "fewer detections per image than the metric counts, which lowers AP; set box.selection.max_detections=300"
        in warning
    )
    assert limit_overrides(model_config("fcis_compact"), as_lvis) == ["fcis.max_detections=300"]  # it has no box head
    assert plan_for(predictor, as_lvis, max_detections=100).warnings == ()
    assert plan_for(predictor, as_lvis, metric="coco").warnings == ()


def test_the_validation_split_is_the_default(data: Path) -> None:
    assert validation_split(data) == "val"
    (data / "annotations" / "instances_val.json").rename(data / "annotations" / "instances_test.json")
    with pytest.raises(ValueError, match=r"has the splits test, train; none starts with 'val'.*--split"):
        validation_split(data)
    (data / "annotations" / "instances_train.json").unlink()
    assert validation_split(data) == "test"


def test_a_class_that_only_the_data_has_is_skipped_with_a_warning(predictor: Predictor, data: Path) -> None:
    def add(tables: Entry) -> None:
        tables["categories"].append({"id": 30, "name": "triangle"})
        tables["annotations"].append({**tables["annotations"][0], "id": 1000, "category_id": 30})

    change_annotations(data, add)
    dataset: Dataset = open_dataset(data, "val", CLASSES)
    assert any("triangle" in line for line in dataset.warnings)
    assert set(evaluate_dataset(predictor, dataset).metrics.per_class) == set(CLASSES)


def test_the_metric_of_the_format_or_the_one_that_was_chosen(predictor: Predictor, data: Path, tmp_path: Path) -> None:
    dataset = open_dataset(data, "val", CLASSES)
    as_voc = replace(dataset, metric="voc2007")
    assert plan_for(predictor, dataset).metric == "coco"
    assert plan_for(predictor, as_voc).metric == "voc2007"
    assert plan_for(predictor, as_voc, metric="coco").metric == "coco"
    done = evaluate_dataset(predictor, as_voc)
    assert list(done.metrics.kinds["segm"]) == ["AP", "AP50", "AP70"]
    assert done.to_dict()["metric"] == "voc2007"
    lines: list[str] = []
    run_evaluation(
        predictor, as_voc, tmp_path / "out", options=EvaluationOptions(), title="t", details={}, log=lines.append
    )
    assert lines == []
    assert "average precision of 2007" in (tmp_path / "out" / "report.html").read_text()
    again = evaluate_results(tmp_path / "out", dataset, metric="voc2007")
    assert again.metrics.kinds == done.metrics.kinds
    plan = plan_evaluation(("bbox", "keypoints"), dataset, metric="voc2012", keypoint_names=())
    assert plan.kinds == ("bbox",)
    assert plan.warnings == (
        "keypoints are not evaluated: the metric voc2012 measures boxes and masks only; metric=coco (--metric) has "
        "keypoints",
    )
    assert plan_evaluation(("bbox", "proposals"), as_voc).metric == "coco"
    with pytest.raises(ValueError, match="metric 'voc' is not known; expected coco, voc2007, voc2012, lvis"):
        evaluate(predictor, data, metric="voc")
    with pytest.raises(ValueError, match="counts all detections"):
        evaluate(predictor, data, metric="voc2012", max_detections=5)


def test_a_data_set_from_python_needs_the_classes_of_the_model(predictor: Predictor, data: Path) -> None:
    record = {"file": data / "val" / "val_1.png", "labels": [CLASSES[0]], "boxes": [[1, 2, 9, 9]]}
    message = rf"has the classes {CLASSES[0]}, .*Dataset.from_records\(\.\.\., classes=\[\.\.\.\]\)"
    with pytest.raises(ValueError, match=message):
        evaluate(predictor, Dataset.from_records([record]))
    found = evaluate(predictor, Dataset.from_records([record], classes=predictor.classes))
    assert found.metrics.objects[CLASSES[0]] == 1


def test_an_unreadable_image_of_saved_results_costs_only_its_picture(data: Path, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(perfect(data, bbox="", segmentation="")))
    (data / "val" / "val_2.png").write_bytes(b"")
    said, options = list[str](), EvaluationOptions(pictures=3)
    saved, dataset, out = tmp_path / "results.json", open_dataset(data, "val", CLASSES), tmp_path / "out"
    done = run_evaluation(saved, dataset, out, options=options, title="t", details={}, log=said.append)
    assert done.metrics.kinds["segm"]["AP"] == 1
    [warning] = [line for line in said if "no picture" in line]
    assert "val_2.png is empty (0 bytes)" in warning
    page = (tmp_path / "out" / "report.html").read_text()
    assert ("val_1.png" in page, "val_2.png" in page, "val_3.png" in page) == (True, False, True)
