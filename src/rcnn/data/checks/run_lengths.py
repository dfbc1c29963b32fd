"""Checks run lengths in annotation files and results, many at a time: which of them can be decoded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rcnn.ops.coco_backend import Rle, as_rle, rle_areas
from rcnn.ops.run_lengths import run_totals


def readable_rles(values: Sequence[Rle], sizes: np.ndarray) -> list[Rle | None]:
    """Each mask as compressed run lengths, with counts as str; None for a mask that is damaged or of another size.

    `sizes` (S, 2) int64 are height and width of the images. A mask without pixels has empty counts.
    """
    compressed = _compressed(values, sizes)
    places = np.flatnonzero(_fit(compressed, sizes)).tolist()
    rles: list[Rle] = [{"size": sizes[place].tolist(), "counts": compressed[place]} for place in places]
    found: list[Rle | None] = [None] * len(values)
    for place, rle, area in zip(places, rles, rle_areas(rles).tolist(), strict=True):  # all at once: much faster
        found[place] = rle | {"counts": rle["counts"].decode() if area else ""}
    return found


def rles_fit(values: Sequence[Rle], sizes: np.ndarray) -> np.ndarray:
    """(S,) bool: the mask can be decoded, and is of the size of its image; `sizes` as in `readable_rles`."""
    return _fit(_compressed(values, sizes), sizes)


def _fit(compressed: Sequence[bytes], sizes: np.ndarray) -> np.ndarray:
    return run_totals(compressed) == sizes.prod(axis=1)


def _compressed(values: Sequence[Rle], sizes: np.ndarray) -> list[bytes]:
    """The compressed counts of each mask; empty for one that is damaged or of another size than its image."""
    compressed: list[bytes] = []
    for value, size in zip(values, sizes.tolist(), strict=True):
        counts = value.get("counts")
        stored = value.get("size")
        if stored != size:  # JSON's numbers: 40.0 equals 40
            compressed.append(b"")
        elif isinstance(counts, str) and counts.isascii():
            compressed.append(counts.encode("ascii"))
        elif isinstance(counts, bytes):
            compressed.append(counts)
        elif isinstance(counts, list) and set(map(type, counts)) <= {int} and _fills(counts, size):
            compressed.append(as_rle({"size": size, "counts": counts}, *size)["counts"])
        else:
            compressed.append(b"")
    return compressed


def _fills(counts: Sequence[int], size: Sequence[int]) -> bool:
    return bool(counts) and min(counts) >= 0 and sum(counts) == size[0] * size[1]
