"""Masks to polygons: the outlines of a mask, simplified, and joined where a format has one polygon per object.

Points are x, y in pixels, on the edges between pixels: the pixel (0, 0) alone has the corners (0, 0), (1, 0), (1, 1),
(0, 1).

Letters: P and Q corners of a polygon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rcnn.ops.masks import PastedMask
from rcnn.ops.rle import value_runs

Polygon = npt.NDArray[np.float64]  # (P, 2) x, y of the corners, not closed
TOLERANCE = 1.0  # pixels; enough to make a staircase of pixels a straight line


@dataclass(frozen=True)
class Part:
    """A connected part of a mask: its outer outline, and the outlines of its holes."""

    outline: Polygon
    holes: tuple[Polygon, ...]


def mask_parts(mask: npt.NDArray[np.bool_], *, tolerance: float = TOLERANCE) -> list[Part]:
    """The connected parts of a mask (H, W), the largest first; pixels that share a side are connected.

    Outlines are simplified to within `tolerance` pixels (Douglas and Peucker 1973); with 0 they follow the pixels, and
    filled by the even-odd rule they give the mask.
    """
    outlines, holes = list[Polygon](), list[Polygon]()
    for loop in _loops(np.asarray(mask, dtype=bool)):
        (outlines if _area(loop) > 0 else holes).append(loop)
    outlines.sort(key=_area, reverse=True)
    owners = [_owner(hole, outlines) for hole in holes]
    return [
        Part(
            _simplified(outline, tolerance),
            tuple(_simplified(hole, tolerance) for hole, owner in zip(holes, owners, strict=True) if owner == number),
        )
        for number, outline in enumerate(outlines)
    ]


def pasted_parts(pasted: PastedMask, *, tolerance: float = TOLERANCE) -> list[Part]:
    """Like `mask_parts`, for a mask in a part of an image; points are in pixels of the image."""
    corner = np.array([pasted.x0, pasted.y0], dtype=np.float64)
    return [
        Part(part.outline + corner, tuple(hole + corner for hole in part.holes))
        for part in mask_parts(pasted.mask, tolerance=tolerance)
    ]


def joined(polygons: Sequence[Polygon]) -> Polygon:
    """One polygon of several: each is joined to those before it by a line of no width between their nearest corners."""
    whole = polygons[0]
    for polygon in polygons[1:]:
        distances = ((whole[:, None] - polygon[None]) ** 2).sum(axis=2)  # (P, Q)
        at, start = np.unravel_index(int(distances.argmin()), distances.shape)
        turned = np.roll(polygon, -int(start), axis=0)
        whole = np.concatenate([whole[: at + 1], turned, turned[:1], whole[at:]])
    return whole


def _loops(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """The outlines of a mask: closed walks along its pixel edges, with the mask on the right-hand side.

    Where two pixels share only a corner, the walk turns right, so they are not connected.
    """
    padded = np.pad(mask.astype(np.int8), 1)
    across, down = _directed(np.diff(padded, axis=0)[:, 1:-1]), _directed(np.diff(padded, axis=1)[1:-1].T)
    # edges run right (+1) where the mask is below them, and up (-1) where it is to the right of them
    horizontal = {(start, line, sign): (end, line) for line, start, end, sign in across}
    vertical = {(line, start, -sign): (line, end) for line, end, start, sign in down}
    loops = list[Polygon]()
    while horizontal:
        (x, y, direction), end = horizontal.popitem()
        corners = [(x, y)]
        first = (x, y)
        while end != first:
            corners.append(end)
            # a turn to the right: right, down, left, up; the other turn where there is no such edge
            edges, right = (vertical, direction) if len(corners) % 2 == 0 else (horizontal, -direction)
            direction = right if (*end, right) in edges else -right
            end = edges.pop((*end, direction))
        loops.append(np.array(corners, dtype=np.float64))
    return loops


def _directed(change: npt.NDArray[np.int8]) -> list[tuple[int, int, int, int]]:
    """Line, start, end and sign of the runs of equal, non-zero values along the lines of `change` (lines, length).

    Start and end are exchanged where the value is negative.
    """
    line, start, end = value_runs(change).T
    sign = change[line, start].astype(np.int64)
    first, last = np.where(sign > 0, start, end), np.where(sign > 0, end, start)
    return list(zip(line.tolist(), first.tolist(), last.tolist(), sign.tolist(), strict=True))


def _area(loop: Polygon) -> float:
    """The area inside a loop, in pixels; negative for a hole."""
    x, y = loop.T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) / 2


def _owner(hole: Polygon, outlines: Sequence[Polygon]) -> int:
    """The index of the outline around a hole; `outlines` are sorted by area, the largest first."""
    x, y = hole[np.lexsort((hole[:, 1], hole[:, 0]))[0]]  # the top corner of its left edge
    inside = [number for number, outline in enumerate(outlines) if _contains(outline, x - 0.5, y + 0.5)]
    return inside[-1]


def _contains(loop: Polygon, x: float, y: float) -> bool:
    """Whether a point in the middle of a pixel is inside a loop along pixel edges."""
    x1, y1 = loop.T
    y2 = np.roll(y1, -1)
    crossed = (x1 > x) & (np.minimum(y1, y2) < y) & (np.maximum(y1, y2) > y)  # only vertical edges can be
    return bool(crossed.sum() % 2)


def _simplified(loop: Polygon, tolerance: float) -> Polygon:
    """A loop without the corners that are within `tolerance` pixels of the line between the remaining corners."""
    if tolerance <= 0 or len(loop) <= 4:
        return loop
    far = int(((loop - loop[0]) ** 2).sum(axis=1).argmax())  # the corners 0 and `far` remain
    closed = np.concatenate([loop, loop[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far]] = True
    pending = [(0, far), (far, len(loop))]
    while pending:
        first, last = pending.pop()
        if last - first < 2:
            continue
        between, start = closed[first + 1 : last], closed[first]
        along = closed[last] - start
        length = float(np.hypot(*along))
        offset = between - start
        across = np.abs(offset[:, 0] * along[1] - offset[:, 1] * along[0])
        distance = across / length if length else np.hypot(*offset.T)
        farthest = int(distance.argmax())
        if distance[farthest] > tolerance:
            middle = first + 1 + farthest
            keep[middle] = True
            pending += [(first, middle), (middle, last)]
    simple = loop[keep[:-1]]
    return simple if len(simple) >= 3 else loop
