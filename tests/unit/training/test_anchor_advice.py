"""Anchors for the sizes of the objects, where the RPN starts from random weights."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from rcnn.data import Dataset
from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.training.advice import advise_model
from tests.unit.training.test_advice import photos

KEY = "rpn.anchors.sizes"
SIDE = 128  # of the images; the compact models' input is as large
STRIDES = (4, 8, 16, 32, 64)  # of the compact models' feature maps


@pytest.mark.parametrize(
    ("model", "side", "objects", "expected"),
    [
        ("mask_rcnn_compact", 128, [6.0], (6, 12, 24, 48, 96)),  # each twice the one before, as is usual
        ("mask_rcnn_compact", 128, [6.0, 6, 100, 100, 100], (6, 12, 24, 49, 100)),  # ... unless large objects need more
        ("mask_rcnn_compact", 128, [2.0], (4, 8, 16, 32, 64)),  # not smaller than a cell
        ("mask_rcnn_compact", 128, [12.0], None),  # IoU with 16 pixels: .56
        ("mask_rcnn_compact", 128, [6.0, 40, 40, 40, 40, 40], None),  # a sixth of the objects is small
        ("mask_rcnn_r50_c4", 1000, [1000.0], (50, 100, 200, 400, 800)),  # in the input, 800 pixels
        ("mask_rcnn_r50_c4", 1000, [40.0, 1000], (32, 72, 160, 358, 800)),
    ],
)
def test_anchors_reach_from_the_small_to_the_large_objects(
    model: str, side: int, objects: list[float], expected: tuple[int, ...] | None
) -> None:
    config = model_config(model)
    data = photos(20, (side, side), objects)
    advice = advise_model(config, data, {"input.min_size", "input.max_size"}, pretrained=False)
    found = advice.model.get(KEY)
    assert (None if found is None else tuple(size for level in found for size in level)) == expected
    if expected is not None:
        fitted = override(config, advice.model).rpn.anchors
        assert [len(level) for level in fitted.sizes] == [len(level) for level in config.rpn.anchors.sizes]
        assert "starts from random weights" in advice.reasons[KEY]
    assert KEY not in advise_model(config, data, (), pretrained=True).model
    assert KEY not in advise_model(config, data, {KEY}, pretrained=False).model


def scattered(count: int) -> Dataset:
    """`count` images with ten boxes each, of 5 to 10 pixels."""
    generator = np.random.default_rng(0)
    records = list[dict[str, object]]()
    for number in range(count):
        corner, size = generator.uniform(0, SIDE - 10, (10, 2)), generator.uniform(5, 10, (10, 2))
        boxes = np.hstack([corner, corner + size]).tolist()
        record = {"file": Path(__file__), "image_id": number, "height": SIDE, "width": SIDE}
        records.append(record | {"labels": ["thing"] * 10, "boxes": boxes})
    return Dataset.from_records(records)


def recall(sizes: tuple[tuple[float, ...], ...], dataset: Dataset) -> float:
    """The fraction of the objects that have an IoU of 0.5 or more with an anchor somewhere, ratios 1:2, 1:1, 2:1."""
    anchors = list[tuple[float, float, float, float]]()
    for (size,), stride in zip(sizes, STRIDES, strict=True):
        cells = range(SIDE // stride)
        for row, column, ratio in product(cells, cells, (0.5, 1, 2)):
            x, y, half_w, half_h = column * stride, row * stride, size / ratio**0.5 / 2, size * ratio**0.5 / 2
            anchors.append((x - half_w, y - half_h, x + half_w, y + half_h))
    left, top, right, bottom = np.array(anchors).T
    area = (right - left) * (bottom - top)
    found = 0
    for x1, y1, x2, y2 in dataset.objects.boxes.tolist():
        width = np.minimum(right, x2) - np.maximum(left, x1)
        height = np.minimum(bottom, y2) - np.maximum(top, y1)
        overlap = width.clip(0) * height.clip(0)
        found += bool((overlap / (area + (x2 - x1) * (y2 - y1) - overlap)).max() >= 0.5)
    return found / len(dataset.objects.boxes)


def test_more_tiny_objects_have_an_anchor() -> None:
    config, data = model_config("mask_rcnn_compact"), scattered(10)
    advice = advise_model(config, data, (), pretrained=False)
    assert "input.min_size" not in advice.model  # the images have no more pixels
    before, after = recall(config.rpn.anchors.sizes, data), recall(advice.model[KEY], data)
    assert before < 0.05
    assert after > 0.7
