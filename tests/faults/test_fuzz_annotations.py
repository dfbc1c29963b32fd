"""Mutated annotation files: each is read, or refused by an error of rcnn that names the file; nothing else happens.

What is read must also come through to the records and to COCO's metrics. RCNN_FUZZ sets the number of mutants.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcnn.data import Dataset, open_dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.data.targets import outline_edges
from rcnn.metrics.coco import evaluate
from rcnn.ops.coco_backend import as_rle
from tests.faults.mutations import MUTANTS, RUNS, mutate, require_plain_lines
from tests.unit.data.coco_folders import annotation, coco_tables, write_images

T = TypeVar("T")
BOX_OF_RUNS = [10, 10, 2, 20]
KITE = {"keypoints": ["left_wing", "right_wing", "tail"], "skeleton": [[1, 3], [2, 3]], "supercategory": "toy"}


def coco() -> dict[str, Any]:
    counts = as_rle(RUNS, 40, 60)["counts"]
    tables = coco_tables(
        [
            annotation(1, keypoints=[12, 12, 2, 20, 14, 1, 0, 0, 0], num_keypoints=2),
            annotation(2, image_id=2, category_id=7, bbox=BOX_OF_RUNS, segmentation=RUNS),
            annotation(3, image_id=2, iscrowd=1, bbox=BOX_OF_RUNS, segmentation=RUNS | {"counts": counts.decode()}),
            annotation(4, area=None),
        ]
    )
    tables["categories"][1] |= KITE
    return tables


def via() -> dict[str, Any]:
    shapes = [
        {"name": "polygon", "all_points_x": [10, 30, 30], "all_points_y": [5, 5, 25]},
        {"name": "rect", "x": 2, "y": 3, "width": 10, "height": 20},
        {"name": "ellipse", "cx": 30, "cy": 20, "rx": 12, "ry": 6, "theta": 0.5},
        {"name": "circle", "cx": 30, "cy": 20, "r": 10},
    ]
    regions = [{"shape_attributes": shape, "region_attributes": {"type": "kite"}} for shape in shapes]
    return {
        "1.png9": {"filename": "1.png", "size": 9, "regions": regions[:2], "file_attributes": {}},
        "2.png9": {
            "filename": "2.png",
            "size": 9,
            "regions": {"0": regions[2], "4": regions[3]},
            "file_attributes": {},
        },
    }


@st.composite
def mutants(draw: st.DrawFn) -> tuple[str, str]:
    """The name of an annotation file, and its text with one to four mutations."""
    name = draw(st.sampled_from(["annotations/instances_val.json", "val/via_region_data.json"]))
    data = copy.deepcopy(coco() if "instances" in name else via())  # entries share constants, which must stay
    for _ in range(draw(st.integers(1, 4))):
        if isinstance(data, (dict, list)):
            data = mutate(draw, data)
    text = json.dumps(data)
    if draw(st.integers(0, 19)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return name, text


def outcome(root: Path, name: str, text: str) -> str:
    """What becomes of a mutant: `read`, `warned` or `refused`. Anything else is raised."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    try:
        dataset, refusal = refused_or(lambda: open_dataset(root, "val", allow_empty=True), file)
        if dataset is None:
            return refusal
        check_records(dataset, root)
        if dataset.objects.keypoints is not None:
            refused_or(lambda: skeleton_of(dataset), file)
        check_metrics(dataset)
        return "warned" if dataset.warnings else "read"
    finally:
        file.unlink()


def refused_or(make: Callable[[], T], file: Path) -> tuple[T | None, str]:
    """What `make` returns, or that it refuses `file` by name."""
    try:
        return make(), ""
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
    assert file.name in message
    require_plain_lines(message.split("\n"))
    return None, "refused"


def check_records(dataset: Dataset, root: Path) -> None:
    """Every number can be trained on, and every file lies in the data set."""
    require_plain_lines((*dataset.classes, *dataset.warnings, *dataset.notes))
    for record in dataset:
        assert record.path.is_file()
        assert record.path.resolve().is_relative_to(root.resolve())
        assert np.isfinite(record.boxes).all()
        assert np.isfinite(record.areas).all()
        assert (record.boxes[:, 2:] > record.boxes[:, :2]).all()
        assert (record.boxes >= 0).all()
        assert (record.boxes <= [record.width, record.height] * 2).all()
        assert all(np.isfinite(outline_edges(one)).all() for one in record.segmentations)
        assert record.keypoints is None or np.isfinite(record.keypoints).all()


def check_metrics(dataset: Dataset) -> None:
    """The ground truth is JSON that COCO's metrics take, with the objects counted right."""
    truth = dataset.to_coco()
    json.dumps(truth, allow_nan=False)
    kinds = [
        "bbox",
        *(["segm"] if dataset.has_outlines else []),
        *(["keypoints"] if dataset.objects.keypoints is not None else []),
    ]
    points = dataset.objects.keypoints
    metrics = evaluate(truth, [], kinds, keypoint_sigmas=None if points is None else [0.1] * points.shape[1])
    assert sum(metrics.objects.values()) == sum(not entry["iscrowd"] for entry in truth["annotations"])


def test_mutated_annotation_files_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("set")
    write_images(root / "val", ["1.png", "2.png"])
    seen: Counter[str] = Counter()
    for name, sound in (("annotations/instances_val.json", coco()), ("val/via_region_data.json", via())):
        assert outcome(root, name, json.dumps(sound)) in ("read", "warned")

    @settings(
        max_examples=MUTANTS, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(mutants())
    def check(mutant: tuple[str, str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # numbers that numpy cannot hold are a fault found too late
            seen[outcome(root, *mutant)] += 1

    check()
    print(f"{sum(seen.values())} mutants: {dict(seen)}")
    assert seen["warned"] + seen["read"] > 0 < seen["refused"]
