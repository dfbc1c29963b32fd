"""The JSON file of an image in labelme's format (https://github.com/wkentaro/labelme, version 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rcnn.ops.contours import Part, joined, pasted_parts
from rcnn.ops.masks import PastedMask

VERSION = "5.5.0"  # of labelme, which checks this version


def labelme_file(
    size: tuple[int, int],
    image_path: str,
    names: Sequence[str],
    boxes: npt.NDArray[np.floating[Any]],
    *,
    scores: npt.NDArray[np.floating[Any]] | None = None,
    masks: Iterable[PastedMask] | None = None,
    tolerance: float,
) -> dict[str, Any]:
    """The content of the JSON file of an image of `size` (height, width), with N objects.

    `image_path` is relative to the JSON file. `names` (N,) are the labels, `boxes` (N, 4) xyxy in pixels. An object
    with a mask has one polygon per part; the parts have one group_id. Holes are joined to the outline around them by a
    line. Outlines are simplified to within `tolerance` pixels. An object without a mask, or with an empty one, is a
    rectangle.
    """
    shapes = list[dict[str, Any]]()
    pasted_masks = [None] * len(names) if masks is None else masks
    for row, (name, box, pasted) in enumerate(zip(names, boxes.tolist(), pasted_masks, strict=True)):
        parts = list[Part]() if pasted is None else pasted_parts(pasted, tolerance=tolerance)
        for part in parts:
            points = joined([part.outline, *part.holes])
            shapes.append(_shape(name, "polygon", points.tolist(), row if len(parts) > 1 else None, scores, row))
        if not parts:
            shapes.append(_shape(name, "rectangle", [box[:2], box[2:]], None, scores, row))
    return {
        "version": VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": image_path,
        "imageData": None,
        "imageHeight": size[0],
        "imageWidth": size[1],
    }


def _shape(
    label: str,
    kind: str,
    points: list[list[float]],
    group: int | None,
    scores: npt.NDArray[np.floating[Any]] | None,
    row: int,
) -> dict[str, Any]:
    shape: dict[str, Any] = {
        "label": label,
        "points": [[round(value, 2) for value in point] for point in points],
        "group_id": group,
        "description": "",
        "shape_type": kind,
        "flags": {},
        "mask": None,
    }
    return shape if scores is None else {**shape, "score": round(float(scores[row]), 4)}
