"""`rcnn data info`: counts against slow loops, k-means against another implementation, settings that models take."""

from __future__ import annotations

import json
import time
import warnings
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from rcnn.data import open_dataset
from rcnn.data.inspect.info import covered, describe_dataset, k_means, suggest
from rcnn.drawing.dataset_chart import dataset_svg
from rcnn.models import model_config
from rcnn.models.overrides import override
from tests.command import rcnn
from tests.tiny_data import CLASSES, write_tiny_coco
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco


def test_counts_are_those_of_a_slow_loop(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path, {"train": 6, "val": 4})
    info = describe_dataset(root)
    assert [one.name for one in info.splits] == ["train", "val"]
    for one in info.splits:
        records = list(open_dataset(root, one.name))
        for label in range(len(CLASSES)):
            assert one.objects[label] == sum(int((record.labels == label).sum()) for record in records)
            assert one.images[label] == sum(bool((record.labels == label).any()) for record in records)
        areas = [float(area) for record in records for area in record.areas]
        expected = {
            "small": sum(area < 1024 for area in areas),
            "medium": sum(1024 <= area < 9216 for area in areas),
            "large": sum(area >= 9216 for area in areas),
        }
        assert one.by_size == expected
    assert info.to_dict()["splits"]["val"]["images"] == 4
    json.dumps(info.to_dict())


def test_empty_images_and_crowds_are_counted(tmp_path: Path) -> None:
    root = write_coco(tmp_path, coco_tables([annotation(1), annotation(2, iscrowd=1)], images=3))
    [one] = describe_dataset(root).splits
    assert (one.empty, one.ignored, int(one.objects.sum())) == (2, 1, 1)


def test_k_means_is_optimal_for_separate_groups_and_a_fixed_point_elsewhere() -> None:
    generator = np.random.default_rng(0)
    centres = np.array([0.0, 10, 20, 30, 40])
    values = (centres[:, None] + generator.normal(0, 0.1, (5, 30))).reshape(-1)
    assert k_means(values, 5) == pytest.approx(values.reshape(5, 30).mean(axis=1))
    spread = generator.uniform(0, 1, 500)
    found = k_means(spread, 4)
    nearest = np.abs(spread[:, None] - found).argmin(axis=1)
    assert found == pytest.approx([spread[nearest == i].mean() for i in range(4)], abs=1e-6)


def test_coverage_computed_by_hand() -> None:
    shapes = np.array([[32.0, 32.0], [64.0, 16.0], [200.0, 200.0], [45.0, 23.0]])
    # IoU with the square of 32: 1; 512 / (1024 + 1024 - 512) = .33; .026; 736 / (1024 + 1035 - 736) = .56
    assert covered(shapes, (32.0,), (1.0,)) == 0.5
    assert covered(shapes, (32.0,), (1.0, 0.25)) == 0.75


def test_100_000_categories_take_seconds(tmp_path: Path) -> None:
    tables = coco_tables([annotation(1), annotation(2, category_id=90_000)])
    tables["categories"] = [{"id": number, "name": f"c{number}"} for number in range(1, 100_001)]
    root = write_coco(tmp_path, tables)
    started = time.process_time()
    info = describe_dataset(root)
    lines = info.lines()
    assert time.process_time() - started < 10  # quadratic: many minutes
    assert info.splits[0].objects[[2, 89_999]].tolist() == [1, 1] == info.splits[0].images[[2, 89_999]].tolist()
    assert info.splits[0].objects.sum() == 2
    assert len(lines) < 2100
    assert "and 98,000 more classes with fewer objects; --json lists all" in lines


@pytest.mark.parametrize("name", ["coco449", "balloon", "fruits_nuts"])
def test_suggestions_are_settings_that_models_take(shared: Path, name: str) -> None:
    suggestion = describe_dataset(shared / "data" / name).suggestion
    config = override(model_config("mask_rcnn_r50_fpn"), suggestion.settings)
    assert 320 <= config.input.min_size <= 800
    assert config.input.min_size <= config.input.max_size <= 1333
    assert suggestion.covered >= suggestion.covered_by_default > 0.7
    if name == "coco449":  # the papers' settings were made for it
        assert suggestion.settings == ["input.min_size=800", "input.max_size=1333"]


def test_small_objects_of_one_shape_get_anchors_of_their_own(tmp_path: Path) -> None:
    sizes = [4 + number % 20 for number in range(80)]
    annotations = [
        annotation(number, bbox=[5, 5, 2 * size, size / (3 + number % 4)], segmentation=None)
        for number, size in enumerate(sizes, start=1)
    ]
    suggestion = suggest(open_dataset(write_coco(tmp_path, coco_tables(annotations)), "val"))
    assert suggestion.covered > suggestion.covered_by_default + 0.2
    assert len(suggestion.anchor_sizes) == 5
    assert all(ratio < 0.3 for ratio in suggestion.anchor_ratios)


def test_names_with_dollars_are_no_formulas(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path / "$x^2$", {"train": 2, "val": 2})
    info = describe_dataset(root)
    splits = tuple(replace(one, name=f"${one.name}_1$") for one in info.splits)
    with warnings.catch_warnings(action="error"):  # of matplotlib, whose font lacks some characters
        svg = dataset_svg(replace(info, splits=splits, classes=("猫", *info.classes[1:])))
    texts = {"".join(element.itertext()) for element in ElementTree.fromstring(svg).iter()}
    assert {"$x^2$", "猫", *(one.name for one in splits)} <= texts


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_tiny_coco(tmp_path / "data", {"train": 6, "val": 4})
    assert rcnn("data", "info", root, "--output", tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "suggested settings: input.min_size=" in printed
    svg = (tmp_path / "out" / "info.svg").read_text()
    ElementTree.fromstring(svg)
    assert all(name in svg for name in (*CLASSES, "train", "val", "Objects per class"))
    assert "http" not in svg.replace("http://www.w3.org/", "")
    assert rcnn("data", "info", root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["classes"] == list(CLASSES)
    assert json.loads((tmp_path / "out" / "info.json").read_text())["classes"] == list(CLASSES)
    assert rcnn("data", "info", tmp_path / "nothing") == 2


def test_the_suggestion_is_for_the_training_split(tmp_path: Path) -> None:
    for split, side in (("Train", 32), ("Dev", 64)):
        tables = coco_tables([annotation(n, bbox=[2, 2, side, side], segmentation=None) for n in range(60)], images=1)
        tables["images"][0] |= {"height": 400, "width": 600}
        write_coco(tmp_path, tables, split)
    info = describe_dataset(tmp_path)
    assert [one.name for one in info.splits] == ["Dev", "Train"]
    assert info.suggestion == suggest(open_dataset(tmp_path, "Train")) != suggest(open_dataset(tmp_path, "Dev"))
