"""Bitmaps to outlines: masks annotated as pixels use the same op as polygons in training."""

from __future__ import annotations

import numpy as np


def mask_outline(mask: np.ndarray) -> np.ndarray:
    """Edges (E, 4) float32 x1, y1, x2, y2, in pixels, around the set pixels of a mask (H, W) bool.

    The edges run between pixels: filled by the even-odd rule, they give the mask. Straight edges have maximal length.
    """
    padded = np.pad(np.asarray(mask, dtype=np.int8), 1)
    across = _runs(np.diff(padded, axis=0)[:, 1:-1])  # (n, 3): y, x1, x2
    down = _runs(np.diff(padded, axis=1)[1:-1].T)  # (n, 3): x, y1, y2
    edges = np.concatenate([across[:, [1, 0, 2, 0]], down[:, [0, 1, 0, 2]]])
    return edges.astype(np.float32)


def _runs(change: np.ndarray) -> np.ndarray:
    """Line, start and end (n, 3) of the runs of equal, non-zero values along the lines of `change` (lines, length)."""
    padded = np.pad(change, ((0, 0), (1, 1)))
    different = padded[:, 1:] != padded[:, :-1]
    line, start = np.nonzero(different & (padded[:, 1:] != 0))
    _, end = np.nonzero(different & (padded[:, :-1] != 0))
    return np.stack([line, start, end], axis=1)
