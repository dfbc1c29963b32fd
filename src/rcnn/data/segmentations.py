"""Outlines of COCO annotations: checked, and packed into columns.

A segmentation is a list of polygons [x, y, x, y, ...], or a dict of run lengths whose counts are a list or a string.

Letters: A objects, M values of a compressed run length string.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.warnings import Findings
from rcnn.ops.coco_backend import Rle, as_rle, rle_area, rle_box

Annotation = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Outlines:
    """Outlines of A objects, as `Objects` keeps them."""

    part_starts: np.ndarray  # (A + 1,) int64 places in point_starts
    point_starts: np.ndarray  # (parts + 1,) int64 places in points
    points: np.ndarray  # float64
    rle_starts: np.ndarray  # (A + 1,) int64 places in rle_bytes
    rle_bytes: np.ndarray  # uint8


def complete(annotations: Sequence[Annotation], sizes: dict[Any, tuple[int, int]], file: Path) -> None:
    """Give each annotation the `bbox` (x, y, width, height) and `area` that it may lack, from its outline.

    `sizes` are (height, width) by image id. Raises ValueError for an annotation with neither box nor outline.
    """
    for annotation in annotations:
        if annotation.get("bbox") is None or annotation.get("area") is None:
            _complete_one(annotation, sizes[annotation["image_id"]], file)


def _complete_one(annotation: Annotation, size: tuple[int, int], file: Path) -> None:
    outline = outline_of(annotation, file)
    if not outline and annotation.get("bbox") is None:
        raise ValueError(
            f"{where(annotation, file)} has neither a bbox nor a segmentation: give it one of them, or take it out"
        )
    try:
        if isinstance(outline, dict):
            rle = as_rle(outline, *size)
            box, area = list(rle_box(rle)), float(rle_area(rle))
        else:
            box, area = _polygon_box(outline), sum(polygon_area(part) for part in outline)
    except (ValueError, TypeError, UnicodeError, OverflowError) as error:
        raise ValueError(f"{where(annotation, file)} has a segmentation that cannot be read: {error}") from error
    if annotation.get("bbox") is None:
        annotation["bbox"] = box
    if annotation.get("area") is None:
        annotation["area"] = area if outline else float(np.prod(annotation["bbox"][2:]))


def where(annotation: Annotation, file: Path) -> str:
    """How an error names an annotation."""
    return f"{file}: annotation {annotation['id']} (image {annotation['image_id']})"


def polygon_area(part: Sequence[float]) -> float:
    """Pixels within one polygon [x, y, x, y, ...] (shoelace formula, as COCO's own areas are)."""
    x, y = np.asarray(part[: len(part) // 2 * 2], dtype=np.float64).reshape(-1, 2).T
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2) if len(x) else 0.0


def _polygon_box(parts: Sequence[Sequence[float]]) -> list[float]:
    xs = [x for part in parts for x in part[0::2]]
    ys = [y for part in parts for y in part[1::2]]
    return [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)] if xs and ys else [0.0, 0.0, 0.0, 0.0]


def outline_of(annotation: Annotation, file: Path) -> list[list[float]] | Rle:
    """The segmentation of an annotation: run lengths, or polygons; an empty list where there is none.

    Raises ValueError, with the annotation's id, for anything else.
    """
    outline = annotation.get("segmentation") or []
    if isinstance(outline, dict):
        return outline if outline.get("counts") else []
    if not isinstance(outline, list) or not all(isinstance(part, list) for part in outline):
        raise ValueError(
            f"{where(annotation, file)} has a segmentation that starts {str(outline)[:40]!r}; wanted a list of "
            'polygons [[x, y, x, y, ...], ...], or run lengths {"size": [height, width], "counts": ...}'
        )
    return [part for part in outline if part]


def _counts(rle: Rle, size: tuple[int, int], annotation: Annotation, file: Path) -> bytes:
    """Run lengths compressed; nothing where they hold no pixel."""
    try:
        compressed = as_rle(rle, *size)
        return compressed["counts"] if rle_area(compressed) else b""
    except (ValueError, TypeError, OverflowError, UnicodeError) as error:
        raise ValueError(
            f"{where(annotation, file)}: {error}; write its mask again at the size of the image"
        ) from error


def pack_outlines(
    annotations: Sequence[Annotation], sizes: dict[Any, tuple[int, int]], file: Path, findings: Findings
) -> Outlines:
    """The outlines of `annotations` (A), run lengths compressed; parts that are not polygons are noted and left out.

    `sizes` are (height, width) by image id. Raises ValueError, with the annotation's id, for run lengths that are
    damaged or not of their image's size, and for coordinates that are not numbers.
    """
    parts_of, lengths_of = [0], [0]
    rle_ends, rles = [0], bytearray()
    points = array("d")
    thin: list[object] = []
    bare: list[object] = []
    for annotation in annotations:
        outline = outline_of(annotation, file)
        if isinstance(outline, dict):
            counts = _counts(outline, sizes[annotation["image_id"]], annotation, file)
            rles += counts
            if not counts:
                bare.append(annotation["id"])
        else:
            polygons = [part for part in outline if len(part) >= 6 and len(part) % 2 == 0]
            if len(polygons) < len(outline):
                thin.append(annotation["id"])
            elif not polygons:
                bare.append(annotation["id"])
            for part in polygons:
                _extend(points, part, annotation, file)
                lengths_of.append(len(points))
        parts_of.append(len(lengths_of) - 1)
        rle_ends.append(len(rles))
    findings.add("a polygon of fewer than three points, or an odd number of coordinates", "that part is left out", thin)
    if len(bare) < len(annotations):  # a data set of boxes alone has nothing to warn of
        findings.add("a box but no outline", "they teach boxes, not masks", bare)
    outlines = Outlines(
        part_starts=np.array(parts_of, dtype=np.int64),
        point_starts=np.array(lengths_of, dtype=np.int64),
        points=np.frombuffer(points, dtype=np.float64) if points else np.zeros(0),
        rle_starts=np.array(rle_ends, dtype=np.int64),
        rle_bytes=np.frombuffer(bytes(rles), dtype=np.uint8),
    )
    _check_finite(outlines, annotations, file)
    _check_totals(outlines, annotations, sizes, file)
    return outlines


def _extend(points: array[float], part: list[float], annotation: Annotation, file: Path) -> None:
    try:
        points.fromlist(part)
    except (TypeError, OverflowError) as error:
        raise ValueError(
            f"{where(annotation, file)} has a polygon with something that is not a number: {str(part)[:60]}; "
            "wanted [x, y, x, y, ...] in pixels"
        ) from error


def _check_finite(outlines: Outlines, annotations: Sequence[Annotation], file: Path) -> None:
    wrong = np.flatnonzero(~np.isfinite(outlines.points))
    if len(wrong):
        part = np.searchsorted(outlines.point_starts, wrong[0], side="right") - 1
        place = int(np.searchsorted(outlines.part_starts, part, side="right") - 1)
        raise ValueError(
            f"{where(annotations[place], file)} has a polygon with a coordinate that is not finite (NaN or infinity); "
            "wanted pixels"
        )


def _check_totals(
    outlines: Outlines, annotations: Sequence[Annotation], sizes: dict[Any, tuple[int, int]], file: Path
) -> None:
    """Raise where the runs of an object do not fill its image: a truncated or foreign string decodes to nonsense."""
    with_runs = np.flatnonzero(np.diff(outlines.rle_starts))
    if not len(with_runs):
        return
    totals = run_totals(outlines.rle_bytes, outlines.rle_starts[with_runs])
    for place, total in zip(with_runs.tolist(), totals.tolist(), strict=True):
        height, width = sizes[annotations[place]["image_id"]]
        if total != height * width:
            raise ValueError(
                f"{where(annotations[place], file)} has run lengths that add up to {total} pixels, its image has "
                f"{height * width}; write its mask again at the size of the image"
            )


def run_totals(counts: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Pixels of each compressed run length string; `counts` uint8 has them all, beginning at `starts`, none empty.

    A value is written in groups of 5 bits, lowest first, each a character above "0" with a sixth bit while more follow;
    from the fourth value on it is the difference to the run two before (COCO's maskApi.c, rleToString).
    """
    codes = counts.astype(np.int64) - 48
    follows = (codes & 32) != 0
    first = np.ones(len(codes), dtype=bool)  # a character that begins a value
    first[1:] = ~follows[:-1]
    first[starts] = True
    begins = np.flatnonzero(first)  # (M,)
    shift = 5 * (np.arange(len(codes)) - np.repeat(begins, np.diff(begins, append=len(codes))))
    values = np.add.reduceat((codes & 31) << np.minimum(shift, 55), begins)
    ends = np.append(begins[1:], len(codes)) - 1
    negative = (codes[ends] & 16) != 0
    values[negative] -= np.int64(1) << np.minimum(shift[ends[negative]] + 5, 60)
    # A difference counts in its own run and in every second run after it.
    string = np.searchsorted(starts, begins, side="right") - 1
    sizes = np.bincount(string, minlength=len(starts))
    order = np.arange(len(begins)) - (np.cumsum(sizes) - sizes)[string]  # place of a value in its string
    repeats = np.where(order == 0, 1, (sizes[string] - 1 - order) // 2 + 1)
    totals = np.zeros(len(starts), dtype=np.int64)
    np.add.at(totals, string, values * repeats)
    return totals
