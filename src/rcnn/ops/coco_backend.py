"""COCO's run-length masks and evaluation. This is the only module that imports hotcoco.

An RLE is {"size": [height, width], "counts": ...}: alternating runs of 0 and 1, column by column, from the top left.
Counts are a list of run lengths (as for crowds in annotation files), or COCO's compressed form, bytes or str.

Letters: R RLEs, D detections, G ground-truth objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hotcoco import COCO, COCOeval, Params, StreamingEval, compare
from hotcoco import mask as backend

from rcnn.ops.run_lengths import region_changes, run_totals

__all__ = [
    "COCO",
    "COCOeval",
    "Params",
    "Rle",
    "StreamingEval",
    "as_compressed",
    "as_rle",
    "compare",
    "encode_mask",
    "encode_pasted",
    "iou_matrix",
    "rle_area",
    "rle_areas",
    "rle_box",
    "rle_boxes",
    "rle_mask",
]

Rle = dict[str, Any]


def as_rle(segmentation: Rle | Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """Any COCO segmentation as one compressed RLE: polygons [[x, y, x, y, ...], ...] are joined, counts compressed.

    Raises ValueError for a segmentation without parts, a part of fewer than three points, counts that are damaged or
    do not add up to `height` x `width`, or an RLE of another size.
    """
    if isinstance(segmentation, dict):
        size = [int(side) for side in segmentation.get("size", ())]
        if size != [height, width]:
            raise ValueError(f"an RLE has size {size} (height, width); expected its image's {[height, width]}")
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            counts = counts.encode("ascii")
        if isinstance(counts, bytes):
            _require_total(int(run_totals([counts])[0]), height, width)
            return {"size": size, "counts": counts}
        if isinstance(counts, (list, tuple, np.ndarray)):
            runs = np.asarray(counts, dtype=np.int64)
            _require_total(-1 if (runs < 0).any() else int(runs.sum()), height, width)
            return backend.frPyObjects({"size": size, "counts": runs.tolist()}, height, width)
        raise ValueError(f"the counts of an RLE are {type(counts).__name__}; expected a list or a str")
    parts = [[float(value) for value in part] for part in segmentation]
    if not parts:
        raise ValueError("a segmentation has no polygons; expected at least one")
    for part in parts:
        if len(part) < 6 or len(part) % 2:
            raise ValueError(f"a polygon has {len(part)} numbers; expected x and y of at least three points")
    return backend.merge(backend.frPyObjects(parts, height, width))


def as_compressed(segmentation: Rle | Sequence[Sequence[float]], height: int, width: int) -> Rle:
    """`as_rle` for what was checked before: run lengths that are compressed are returned as they are, unread."""
    if isinstance(segmentation, dict) and isinstance(segmentation["counts"], str | bytes):
        return segmentation
    return as_rle(segmentation, height, width)


def _require_total(total: int, height: int, width: int) -> None:
    """ValueError unless the runs of an RLE have `total` = `height` x `width` pixels; -1: they cannot be decoded."""
    if total == height * width:
        return
    found = "are damaged" if total < 0 else f"add up to {total}"
    raise ValueError(f"the counts of an RLE {found}; expected {height} x {width} = {height * width} pixels")


def rle_mask(rle: Rle) -> np.ndarray:
    """The mask (H, W) bool of a compressed RLE."""
    return backend.decode(_readable(rle)).astype(bool)


def rle_area(rle: Rle) -> int:
    """Number of set pixels of a compressed RLE."""
    return int(backend.area(_readable(rle)))


def rle_areas(rles: Sequence[Rle]) -> np.ndarray:
    """Numbers (R,) of set pixels of run lengths, compressed or not."""
    return np.asarray(backend.area(list(rles)))


def rle_boxes(rles: Sequence[Rle]) -> np.ndarray:
    """The boxes (R, 4) x, y, width, height around run lengths, in pixels; zeros for an empty one."""
    return np.asarray(backend.toBbox(list(rles)), dtype=np.float64).reshape(-1, 4)


def rle_box(rle: Rle) -> tuple[float, float, float, float]:
    """The box x, y, width, height around a compressed RLE, in pixels; zeros if it is empty."""
    x, y, width, height = (float(value) for value in backend.toBbox(_readable(rle)))
    return x, y, width, height


def iou_matrix(detections: Sequence[Any], objects: Sequence[Any]) -> np.ndarray:
    """Intersection over union (D, G) of boxes [x, y, width, height], or of compressed RLEs of one size."""
    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    return np.asarray(backend.iou(list(detections), list(objects), [0] * len(objects)))


def encode_mask(mask: np.ndarray) -> Rle:
    """The compressed RLE of a mask (H, W), with counts as str, for JSON."""
    return encode_pasted(0, 0, mask, (mask.shape[0], mask.shape[1]))


def encode_pasted(x0: int, y0: int, mask: np.ndarray, size: tuple[int, int]) -> Rle:
    """The compressed RLE of an image of `size` (height, width) that contains only `mask` (h, w) bool at (x0, y0).

    Time and memory depend on the region, not on the image.
    """
    height, width = size
    h, w = mask.shape
    if x0 < 0 or y0 < 0 or x0 + w > width or y0 + h > height:
        raise ValueError(f"a region {w}x{h} at ({x0}, {y0}) does not fit into an image of {width}x{height}")
    positions = region_changes(x0, y0, mask, height)
    runs = positions.copy()
    runs[1:] -= positions[:-1]
    counts, end = runs.tolist(), int(positions[-1]) if len(positions) else 0
    if not counts or end != height * width:
        counts.append(height * width - end)
    rle = backend.frPyObjects({"size": [height, width], "counts": counts}, height, width)
    return {"size": [int(height), int(width)], "counts": rle["counts"].decode("ascii")}


def _readable(rle: Rle) -> Rle:
    counts = rle["counts"]
    return {"size": list(rle["size"]), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
