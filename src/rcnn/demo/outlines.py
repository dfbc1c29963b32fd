"""Pixel coverage to COCO polygons: trace the lines of half coverage, simplify them, and join holes to outlines.

COCO fills the polygons of an object one by one and takes their union, so a hole cannot be a separate polygon. It is
joined to the outline around it by a cut of zero width that the polygon passes in both directions (a keyhole).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ring = npt.NDArray[np.float64]  # (P, 2) x, y in pixels (centres at .5); closed: the last point joins the first

# For each pattern of covered corners of a cell (1 top left, 2 top right, 4 bottom right, 8 bottom left): the sides
# where the outline enters and leaves, with the covered part on its right. Sides: 0 top, 1 right, 2 bottom, 3 left.
# Opposite corners count as not connected.
_SEGMENTS: tuple[tuple[tuple[int, int], ...], ...] = (
    (), ((0, 3),), ((1, 0),), ((1, 3),), ((2, 1),), ((0, 3), (2, 1)), ((2, 0),), ((2, 3),),
    ((3, 2),), ((0, 2),), ((1, 0), (3, 2)), ((1, 2),), ((3, 1),), ((0, 1),), ((3, 0),), (),
)  # fmt: skip


def trace(coverage: npt.NDArray[np.floating], level: float = 0.5) -> list[Ring]:
    """Closed lines where `coverage` (h, w) equals `level` (marching squares, Lorensen and Cline 1987).

    Values between pixel centres are interpolated linearly; the coverage outside the array is 0. Outlines have a
    positive `signed_area`, holes a negative one.
    """
    values = np.pad(np.asarray(coverage, dtype=np.float64), 1)
    inside = values >= level
    cell = inside[:-1, :-1] + 2 * inside[:-1, 1:] + 4 * inside[1:, 1:] + 8 * inside[1:, :-1]
    rows, columns = np.nonzero((cell > 0) & (cell < 15))
    following: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for row, column, pattern in zip(rows.tolist(), columns.tolist(), cell[rows, columns].tolist(), strict=True):
        for entry, leave in _SEGMENTS[pattern]:
            following[_crossing(row, column, entry)] = _crossing(row, column, leave)
    rings = []
    while following:
        start, point = following.popitem()
        walk = [start]
        while point != start:
            walk.append(point)
            point = following.pop(point)
        rings.append(_positions(values, np.array(walk), level))
    return rings


def signed_area(ring: Ring) -> float:
    """The enclosed area, positive if the ring turns from x towards y."""
    following = np.roll(ring, -1, 0)
    return float((ring[:, 0] * following[:, 1] - following[:, 0] * ring[:, 1]).sum() / 2)


def simplify(ring: Ring, tolerance: float) -> Ring:
    """The ring with fewer points; removed points are at most `tolerance` away from it (Douglas and Peucker 1973)."""
    far = int(((ring - ring[0]) ** 2).sum(1).argmax())
    closed = np.concatenate([ring, ring[:1]])
    keep = np.zeros(len(closed), dtype=bool)
    keep[[0, far]] = True
    open_parts = [(0, far), (far, len(ring))]
    while open_parts:
        first, last = open_parts.pop()
        if last - first < 2:
            continue
        start, chord = closed[first], closed[last] - closed[first]
        offset = closed[first + 1 : last] - start
        length = float(np.hypot(*chord))
        cross = np.abs(offset[:, 0] * chord[1] - offset[:, 1] * chord[0])
        distance = cross / length if length else np.hypot(offset[:, 0], offset[:, 1])
        worst = int(distance.argmax())
        if distance[worst] > tolerance:
            middle = first + 1 + worst
            keep[middle] = True
            open_parts += [(first, middle), (middle, last)]
    return ring[keep[:-1]]


def polygons(coverage: npt.NDArray[np.floating], *, tolerance: float = 0.2, smallest: float = 6.0) -> list[list[float]]:
    """COCO polygons [x1, y1, x2, y2, ...] of the covered area, without parts and holes below `smallest` pixels."""
    rings = [simplify(ring, tolerance) for ring in trace(coverage)]
    outlines = [ring for ring in rings if len(ring) > 2 and signed_area(ring) >= smallest]
    holes = [ring for ring in rings if len(ring) > 2 and -signed_area(ring) >= smallest]
    for hole in sorted(holes, key=lambda ring: ring[:, 0].min()):
        point = hole[hole[:, 0].argmin()]
        around = [i for i, outline in enumerate(outlines) if _contains(outline, point)]
        if around:
            # a hole belongs to the smallest outline around it, because a part can lie inside the hole of another part
            outer = min(around, key=lambda i: signed_area(outlines[i]))
            outlines[outer] = _keyhole(outlines[outer], hole)
    return [np.round(ring, 2).ravel().tolist() for ring in outlines]


def _crossing(row: int, column: int, side: int) -> tuple[int, int, int]:
    """The grid line of a cell's `side`: row and column of its first end, and 1 if it is vertical."""
    return ((row, column, 0), (row, column + 1, 1), (row + 1, column, 0), (row, column, 1))[side]


def _positions(values: npt.NDArray[np.float64], walk: npt.NDArray[np.int64], level: float) -> Ring:
    row, column, vertical = walk.T
    first, second = values[row, column], values[row + vertical, column + 1 - vertical]
    part = (level - first) / (second - first)
    # half a pixel back: values lie at pixel centres, and the array was padded by one
    return np.stack([column + part * (1 - vertical) - 0.5, row + part * vertical - 0.5], 1)


def _contains(ring: Ring, point: npt.NDArray[np.float64]) -> bool:
    following = np.roll(ring, -1, 0)
    spans = (ring[:, 1] <= point[1]) != (following[:, 1] <= point[1])
    a, b = ring[spans], following[spans]
    x = a[:, 0] + (point[1] - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    return bool((x < point[0]).sum() % 2)


def _keyhole(outline: Ring, hole: Ring) -> Ring:
    """One ring around both, cut from the hole's leftmost point to the left, up to the nearest point of the outline."""
    start = int(hole[:, 0].argmin())
    x, y = hole[start]
    following = np.roll(outline, -1, 0)
    spans = np.flatnonzero((outline[:, 1] <= y) != (following[:, 1] <= y))
    a, b = outline[spans], following[spans]
    met = a[:, 0] + (y - a[:, 1]) * (b[:, 0] - a[:, 0]) / (b[:, 1] - a[:, 1])
    nearest = int(np.where(met < x, met, -np.inf).argmax())
    edge = int(spans[nearest])
    bridge = np.array([[met[nearest], y]])
    around = np.roll(hole, -start, 0)
    return np.concatenate([outline[: edge + 1], bridge, around, around[:1], bridge, outline[edge + 1 :]])
