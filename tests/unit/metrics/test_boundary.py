"""Boundary AP against boundary IoU computed by a slow erosion."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pycocotools import mask as pycoco

from rcnn.metrics import boundary, coco

Mask = npt.NDArray[np.bool_]
SIZE = (120, 160)
WIDTH = round(0.02 * float(np.hypot(*SIZE)))  # pixels: 4


def disc(x: float, y: float, radius: float) -> Mask:
    rows, columns = np.indices(SIZE) + 0.5
    return np.hypot(columns - x, rows - y) < radius


def rim(mask: Mask) -> Mask:
    """The pixels of a mask with an unset one, or the border of the image, within WIDTH pixels in x and y."""
    padded = np.pad(mask, WIDTH)
    inside = np.ones(SIZE, bool)
    for y in range(2 * WIDTH + 1):
        for x in range(2 * WIDTH + 1):
            inside &= padded[y : y + SIZE[0], x : x + SIZE[1]]
    return mask & ~inside


def iou(first: Mask, second: Mask) -> float:
    return float((first & second).sum() / (first | second).sum())


def rle(mask: Mask) -> dict[str, Any]:
    encoded = pycoco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(SIZE), "counts": encoded["counts"].decode()}


def test_ap_follows_the_smaller_of_mask_and_boundary_iou() -> None:
    pytest.importorskip("faster_coco_eval", reason="needs rcnn[boundary]")
    truth, found = [disc(60, 60, 40), disc(130, 60, 15)], [disc(61.5, 60, 40), disc(130, 60, 15)]
    value = min(iou(truth[0], found[0]), iou(rim(truth[0]), rim(found[0])))
    assert 0.5 < value < 0.75 < iou(truth[0], found[0])  # the boundary decides
    ground_truth = {
        "images": [{"id": 5, "height": SIZE[0], "width": SIZE[1]}],
        "annotations": [
            {"id": n, "image_id": 5, "category_id": 3 + n, "iscrowd": 0, "area": int(mask.sum()),
             "bbox": pycoco.toBbox(rle(mask)).tolist(), "segmentation": rle(mask)} for n, mask in enumerate(truth)
        ],
        "categories": [{"id": 3, "name": "disc"}, {"id": 4, "name": "dot"}],
    }  # fmt: skip
    results = [
        {"image_id": 5, "category_id": 3 + n, "score": 0.9, "segmentation": rle(mask)} for n, mask in enumerate(found)
    ]
    metrics = coco.evaluate(ground_truth, results, ("segm",))
    metrics = boundary.with_boundary(metrics, ground_truth, results)
    expected = float((np.linspace(0.5, 0.95, 10) <= value).mean())  # of the class disc; that of dot is 1
    assert metrics.per_class["disc"]["boundary"]["AP"] == pytest.approx(expected)
    assert metrics.per_class["dot"]["boundary"]["AP"] == pytest.approx(1)
    assert metrics.kinds["boundary"]["AP"] == pytest.approx((1 + expected) / 2)
    assert metrics.kinds["boundary"]["AP75"] == pytest.approx(0.5)
    assert metrics.kinds["segm"]["AP75"] == pytest.approx(1)


def test_results_may_have_polygons_or_uncompressed_run_lengths() -> None:
    pytest.importorskip("faster_coco_eval", reason="needs rcnn[boundary]")
    outline = [[10.0, 20.0, 60.0, 20.0, 60.0, 90.0, 10.0, 90.0]]
    image, box = {"id": 5, "height": SIZE[0], "width": SIZE[1]}, [10.0, 20.0, 50.0, 70.0]
    entry = {"image_id": 5, "category_id": 3, "bbox": box, "area": 3500.0, "iscrowd": 0, "segmentation": outline}
    truth = {"images": [image], "annotations": [{"id": 1, **entry}], "categories": [{"id": 3, "name": "door"}]}
    rows, columns = np.indices(SIZE)
    mask = (rows >= 20) & (rows < 90) & (columns >= 10) & (columns < 60)
    changes = np.flatnonzero(np.diff(mask.T.reshape(-1))) + 1
    counts = np.diff([0, *changes, mask.size]).tolist()
    for segmentation in (outline, {"size": list(SIZE), "counts": counts}, rle(mask)):
        results = [{"image_id": 5, "category_id": 3, "score": 0.9, "segmentation": segmentation}]
        metrics = boundary.with_boundary(coco.evaluate(truth, results, ("segm",)), truth, results)
        assert metrics.kinds["boundary"]["AP"] == pytest.approx(1)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    with pytest.raises(ImportError, match=r"pip install 'rcnn\[boundary\]'"):
        boundary.require_backend()
