"""The label file of an image in YOLO's format, and data.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.ops.contours import Part, joined, pasted_parts
from rcnn.ops.masks import PastedMask

VISIBLE = 2.0  # visibility of a keypoint in YOLO's and COCO's formats


def yolo_lines(
    size: tuple[int, int],
    labels: Sequence[int],
    boxes: npt.NDArray[np.floating[Any]],
    *,
    masks: Iterable[PastedMask] | None = None,
    keypoints: npt.NDArray[np.floating[Any]] | None = None,
    tolerance: float,
) -> list[str]:
    """A line per object of an image of `size` (height, width): `class x1 y1 x2 y2 ...` or `class cx cy width height`.

    `labels` (N,) are the indices of the classes in data.yaml, `boxes` (N, 4) xyxy in pixels; numbers are fractions of
    the image. The outlines of the parts of a mask, and of their holes, are joined to one polygon by lines of no width,
    and simplified to within `tolerance` pixels. An object without a mask, or with an empty one, is a box.
    `keypoints` (N, J, 3), in pixels, are for objects without masks: x, y and visibility 2 of each follow its box.
    """
    height, width = size
    lines = list[str]()
    pasted_masks = [None] * len(labels) if masks is None else masks
    for row, (label, (x1, y1, x2, y2), pasted) in enumerate(zip(labels, boxes.tolist(), pasted_masks, strict=True)):
        parts = list[Part]() if pasted is None else pasted_parts(pasted, tolerance=tolerance)
        if parts:
            points = joined([polygon for part in parts for polygon in (part.outline, *part.holes)])
            numbers: list[float] = (points / (width, height)).reshape(-1).tolist()
        else:
            numbers = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
            if keypoints is not None:
                for x, y, _ in keypoints[row].tolist():
                    numbers += [min(max(0.0, x / width), 1.0), min(max(0.0, y / height), 1.0), VISIBLE]
        lines.append(" ".join([str(label), *(f"{value:.6f}" for value in numbers)]))
    return lines


def data_yaml(names: Sequence[str], *, images: str = "images", keypoints: int = 0) -> str:
    """The content of data.yaml: `names` of the classes and the folder of the images, the split train.

    `keypoints`: the number of keypoints of each object, if the label files have them.
    """
    listed = "".join(f"  {number}: {json.dumps(name, ensure_ascii=False)}\n" for number, name in enumerate(names))
    shape = f"kpt_shape: [{keypoints}, 3]\n" if keypoints else ""
    return f"# Add val: with other images before you train with another tool.\ntrain: {images}\n{shape}names:\n{listed}"
