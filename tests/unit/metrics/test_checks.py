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


def test_polygons_that_no_mask_can_be_made_of_are_refused() -> None:
    """COCO's code gives them an IoU of 0 without a message; boxes may come with an empty list of polygons."""
    truth = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "categories": [{"id": 1, "name": "cup"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "segmentation": [[0, 0, 9, 0, 9, 9, 0, 9]]}
        ],
    }
    result: dict[str, Any] = {"image_id": 1, "category_id": 1, "score": 0.5, "bbox": [0, 0, 9, 9]}
    with pytest.raises(ValueError, match=r"result 0 \(image 1\) has segmentation .*; expected RLE .* or polygons"):
        evaluate(truth, [{**result, "segmentation": [[0, 0, 9, 0, 9, 9, 0]]}], ("bbox",))
    empty = [{**result, "segmentation": list[Any]()}]
    with pytest.raises(
        ValueError, match=r"result 0 \(image 1\) has a mask without polygons; expected RLE, or polygons"
    ):
        evaluate(truth, empty, ("segm",))
    assert evaluate(truth, empty, ("bbox",)).kinds["bbox"]["AP"] == pytest.approx(1)
