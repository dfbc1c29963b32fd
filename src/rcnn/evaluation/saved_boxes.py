"""Saved results with boxes in another form than COCO's [x, y, width, height] in pixels, which match no object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.data.messages import counted
from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Result

SMALLEST = 16  # pixels: in smaller images, a box within 0..1 is not clearly a fraction
MOST = 0.5  # of the boxes
NEARLY_ALL = 0.95  # of the boxes
BEYOND = 0.25  # of the boxes: corners of boxes near the top left of the image do not reach beyond it as widths


def box_form_warnings(dataset: Dataset, results: Sequence[Result]) -> tuple[str, ...]:
    """A line if most boxes are clearly fractions of the image, or corners x1, y1, x2, y2; nothing is converted.

    `results` are checked, and their images are those of `dataset`.
    """
    with_boxes = [result for result in results if result.get("bbox") is not None]
    if not with_boxes:
        return ()
    index = {image_id: place for place, image_id in enumerate(dataset.image_ids)}
    sizes = dataset.sizes[[index[result["image_id"]] for result in with_boxes]][:, ::-1]  # (N, 2) width, height
    boxes = np.array([result["bbox"] for result in with_boxes], dtype=np.float64)  # (N, 4)
    fractions = (boxes.max(axis=1) <= 1) & (boxes.max(axis=1) > 0) & (sizes.min(axis=1) >= SMALLEST)
    expected = "expected COCO's [x, y, width, height] in pixels of the original image. They match hardly any object"
    if (count := int(fractions.sum())) > MOST * len(boxes):
        return (
            f"{count} of {counted(len(boxes), 'box')} have no number above 1, e.g. "
            f"{boxes[fractions.argmax()].round(2).tolist()}: fractions of the image? {expected}: multiply x and width "
            "by the width of the image, y and height by its height",
        )
    first, second = boxes[:, :2], boxes[:, 2:]  # (N, 2) each
    beyond = (first + second > sizes + 1).any(axis=1)
    are_corners = (second >= first).all(axis=1) & (second <= sizes + 1).all(axis=1)
    wrong = beyond & are_corners
    if (count := int(wrong.sum())) > BEYOND * len(boxes) and are_corners.mean() >= NEARLY_ALL:
        return (
            f"{count} of {counted(len(boxes), 'box')} reach beyond their image, e.g. "
            f"{boxes[wrong.argmax()].round(2).tolist()}, but fit as corners x1, y1, x2, y2; {expected}: write x2 - x1 "
            "and y2 - y1 as width and height",
        )
    return ()
