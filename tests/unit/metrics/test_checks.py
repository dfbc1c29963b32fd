"""Checks of ground truth and results: entries that are incomplete, but enough for the metrics."""

from __future__ import annotations

from typing import Any

import pytest

from rcnn.metrics.coco import evaluate


@pytest.mark.parametrize("sides", [("height",), ("width",), ()])
def test_masks_with_a_size_need_no_size_of_their_image(sides: tuple[str, ...]) -> None:
    found: dict[str, Any] = {
        "image_id": 1,
        "category_id": 1,
        "segmentation": {"size": [100, 100], "counts": [0, 20, 9980]},
    }
    truth = {
        "images": [{"id": 1, **dict.fromkeys(sides, 100)}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [{"id": 1, "bbox": [0, 0, 1, 20], "area": 20, "iscrowd": 0, **found}],
    }
    assert evaluate(truth, [{"score": 0.5, **found}], ("segm",)).kinds["segm"]["AP"] == pytest.approx(1)
