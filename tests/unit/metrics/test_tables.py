"""The tables that a terminal shows."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import replace

import pytest

from rcnn.metrics.coco import evaluate
from rcnn.metrics.tables import metrics_table, per_class_csv, per_class_table
from rcnn.metrics.values import Metrics
from tests.unit.random_truth import random_results, random_truth


def metrics_of(classes: Mapping[str, tuple[float | None, float | None]]) -> Metrics:
    """Metrics with the given box and mask AP per class (AP, AP50), and .25 and .5 overall."""
    truth = random_truth(0)
    measured = evaluate(truth, random_results(truth, 1))
    overall = {kind: dict.fromkeys(measured.kinds[kind], 0.25) | {"AP50": 0.5, "APl": None} for kind in measured.kinds}
    by_class = {n: {kind: {"AP": ap, "AP50": ap50} for kind in overall} for n, (ap, ap50) in classes.items()}
    objects = dict.fromkeys(classes, 1234)
    return Metrics(kinds=overall, per_class=by_class, images=9, objects=objects, detections=4321, max_detections={})


def test_the_whole_table_of_two_classes() -> None:
    table = metrics_table(metrics_of({"cup": (0.1234, 1.0), "traffic light": (None, 0.0)}))
    assert table.splitlines() == [
        "9 images, 2,468 objects, 4,321 detections",
        "",
        "         box   mask",
        "AP     0.250  0.250  mean over IoU .50:.05:.95",
        "AP50   0.500  0.500  at IoU .50",
        "AP75   0.250  0.250  at IoU .75",
        "APs    0.250  0.250  small, under 32 x 32 pixels",
        "APm    0.250  0.250  medium",
        "APl        -      -  large, over 96 x 96 pixels",
        "AR1    0.250  0.250  recall of the best detection per image and class",
        "AR10   0.250  0.250  recall of the best 10 detections per image and class",
        "AR100  0.250  0.250  recall of the best 100 detections per image and class",
        "ARs    0.250  0.250  recall, small",
        "ARm    0.250  0.250  recall, medium",
        "ARl    0.250  0.250  recall, large",
        "",
        "class          objects  box AP  box AP50  mask AP  mask AP50",
        "cup              1,234   0.123     1.000    0.123      1.000",
        "traffic light    1,234       -     0.000        -      0.000",
    ]


def test_classes_without_objects_are_only_counted() -> None:
    metrics = metrics_of({"cup": (0.5, 1.0), "kite": (None, None), "boat": (None, None)})
    lines = metrics_table(replace(metrics, objects=metrics.objects | {"kite": 0, "boat": 0})).splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["class", "cup", "2"]
    assert lines[-1] == "2 classes without objects are not listed"


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("count", [1, 16, 17, 80, 1203])
def test_every_class_is_there_once_and_no_line_is_too_long(count: int, width: int) -> None:
    names = [f"kind-{place:04}" for place in range(count)]
    lines = metrics_table(metrics_of(dict.fromkeys(names, (0.5, 0.75))), width).splitlines()
    found = [word for line in lines for word in line.split() if word.startswith("kind-")]
    assert sorted(found) == names
    if count > 16:
        assert max(len(line) for line in lines[17:]) <= width
        by_column = [line.split()[0] for line in lines if line.startswith("kind-")]
        assert by_column == names[: len(by_column)], "read downwards"


def test_a_long_name_is_cut_rather_than_the_line_wrapped() -> None:
    lines = metrics_table(metrics_of({"x" * 300: (0.5, 0.5), "cup": (0.5, 0.5)})).splitlines()
    assert max(len(line) for line in lines) <= 80
    assert lines[-2].split()[0].endswith("x…")


def test_boxes_alone_have_no_column_of_masks() -> None:
    truth = random_truth(0)
    table = metrics_table(evaluate(truth, random_results(truth, 1), ("bbox",)))
    assert "mask" not in table
    assert "objects  box AP  box AP50" in table


def test_one_line_per_class_has_all_metrics() -> None:
    metrics = metrics_of({"traffic light": (0.1234, 1.0), 'a "b", c': (None, None)})
    metrics.per_class["traffic light"]["segm"] |= {"AP75": 0.5, "APs": 0.0, "APl": 0.25, "AR": 0.75}
    assert per_class_table(metrics).splitlines()[4:] == [
        "class (mask)      AP   AP50   AP75  small  medium  large     AR",
        "traffic light  0.123  1.000  0.500  0.000       -  0.250  0.750",
        'a "b", c           -      -      -      -       -      -      -',
    ]
    assert metrics_table(metrics, per_class=True).endswith(per_class_table(metrics))
    without = replace(metrics, objects=metrics.objects | {'a "b", c': 0})
    assert per_class_table(without).splitlines()[3:] == [
        "class (mask)      AP   AP50   AP75  small  medium  large     AR",
        "traffic light  0.123  1.000  0.500  0.000       -  0.250  0.750",
        "",
        "1 class without objects is not listed",
    ]
    assert list(csv.reader(per_class_csv(metrics).splitlines()))[3:] == [
        ["segm", "traffic light", "1234", "0.123400", "1.000000", "0.500000", "0.000000", "", "0.250000", "0.750000"],
        ["segm", 'a "b", c', "1234", *[""] * 7],
    ]
