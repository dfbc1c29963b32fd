"""Bitmaps to outlines and back: masks annotated as pixels use the same op as polygons in training."""

from __future__ import annotations

import numpy as np


def mask_outline(mask: np.ndarray) -> np.ndarray:
    """Edges (E, 4) float32 x1, y1, x2, y2, in pixels, around the set pixels of a mask (H, W) bool.

    The edges run between pixels: filled by the even-odd rule, they give the mask. Straight edges have maximal length.
    """
    padded = np.pad(np.asarray(mask, dtype=np.int8), 1)
    across = value_runs(np.diff(padded, axis=0)[:, 1:-1])  # (n, 3): y, x1, x2
    down = value_runs(np.diff(padded, axis=1)[1:-1].T)  # (n, 3): x, y1, y2
    edges = np.concatenate([across[:, [1, 0, 2, 0]], down[:, [0, 1, 0, 2]]])
    return edges.astype(np.float32)


def outline_mask(edges: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask (H, W) bool of `size` (height, width) with the pixels that have their centre inside an outline.

    This is the inverse of `mask_outline`. `edges` (E, 5) are x1, y1, x2, y2, part, in pixels. The object is the union
    of its parts, each filled by the even-odd rule; the edges of a part form closed outlines, in any order.
    """
    mask = np.zeros(size, dtype=bool)
    for part in np.unique(edges[:, 4]):
        mask |= _filled(edges[edges[:, 4] == part], size)
    return mask


def _filled(edges: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The pixels (H, W) bool inside one part: right of an odd number of edges of their row."""
    x1, y1, x2, y2 = edges[:, :4].T
    # the rows with centres y + 0.5 in [low, high) of each edge
    first = np.ceil(np.minimum(y1, y2) - 0.5).clip(0, size[0]).astype(np.int64)
    last = np.ceil(np.maximum(y1, y2) - 0.5).clip(0, size[0]).astype(np.int64)
    count = last - first
    edge = np.repeat(np.arange(len(edges)), count)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (x2 - x1)[edge] / (y2 - y1)[edge]  # edges that cross no centre of a row are not among these
    x = x1[edge] + (row + 0.5 - y1[edge]) * slope
    column = np.ceil(x - 0.5).clip(0, size[1]).astype(np.int64)  # the first with its centre at x or right of it
    crossings = np.zeros((size[0], size[1] + 1), dtype=np.int32)
    np.add.at(crossings, (row, column), 1)
    return (np.cumsum(crossings, axis=1)[:, :-1] & 1).astype(bool)


def value_runs(change: np.ndarray) -> np.ndarray:
    """Line, start and end (n, 3) of the runs of equal, non-zero values along the lines of `change` (lines, length)."""
    padded = np.pad(change, ((0, 0), (1, 1)))
    different = padded[:, 1:] != padded[:, :-1]
    line, start = np.nonzero(different & (padded[:, 1:] != 0))
    _, end = np.nonzero(different & (padded[:, :-1] != 0))
    return np.stack([line, start, end], axis=1)
