"""Run lengths of COCO's masks: computed from a region of an image, and summed from compressed strings.

Letters: S strings, M values of all strings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_GROUPS = 10  # of 5 bits in a value; more cannot be a run of an image
CHARACTERS = 64_000  # of strings that are read at once: few enough that the arrays stay in the processor's cache


def region_changes(x0: int, y0: int, mask: np.ndarray, height: int) -> np.ndarray:
    """Where an image of `height` rows that contains only `mask` (h, w) bool at (x0, y0) changes, along its columns.

    The positions x * height + y, int64, ascending, are the cumulative sums of the run lengths.
    """
    h, w = mask.shape
    pixels = np.zeros(1 + w * (h + 1), dtype=bool)  # one column after the other, an empty pixel before and after each
    pixels[1:].reshape(w, h + 1)[:, :-1] = mask.T
    found = np.flatnonzero(pixels[1:] != pixels[:-1])  # start, end, start, end, ...: each column's runs are closed
    positions = found + found // (h + 1) * (height - h - 1) + (x0 * height + y0)
    if h < height:
        return positions
    # a run that ends at the bottom of a column continues at the top of the next
    single = np.ones(len(positions), dtype=bool)
    apart = positions[1:] != positions[:-1]
    single[1:] &= apart
    single[:-1] &= apart
    return positions[single]


def run_totals(strings: Sequence[bytes]) -> np.ndarray:
    """The number of pixels (S,) int64 of each string of compressed run lengths; -1 for a damaged string.

    A value is written in groups of 5 bits, lowest first, each a character above "0" with a sixth bit while more follow;
    from the fourth value on it is the difference to the run two before (COCO's maskApi.c, rleToString).
    """
    totals = np.full(len(strings), -1, dtype=np.int64)
    lengths = np.fromiter(map(len, strings), dtype=np.int64, count=len(strings))
    filled = np.flatnonzero(lengths)
    ends = np.cumsum(lengths[filled])
    start = 0
    while start < len(filled):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + CHARACTERS, side="right")))
        rows = filled[start:stop]
        totals[rows] = _totals([strings[row] for row in rows.tolist()], lengths[rows])
        start = stop
    return totals


def _totals(strings: Sequence[bytes], lengths: np.ndarray) -> np.ndarray:
    """`run_totals` of non-empty strings of these lengths (S,)."""
    codes = np.frombuffer(b"".join(strings), dtype=np.uint8) - np.uint8(48)  # characters below "0" wrap around
    last = (codes & 32) == 0  # the character ends a value
    ends = np.cumsum(lengths)
    damaged = ~last[ends - 1]  # the last value is cut off
    last[ends - 1] = True
    stops = np.flatnonzero(last)  # (M,)
    firsts = np.searchsorted(stops, ends - lengths)  # (S,) the first value of each string
    groups = np.diff(stops, prepend=-1)
    runs = _runs(_values(codes, stops, groups), firsts)
    odd = (groups > MAX_GROUPS) | (runs < 0)
    odd[np.searchsorted(stops, np.flatnonzero(codes > 63))] = True
    damaged[np.searchsorted(firsts, np.flatnonzero(odd), side="right") - 1] = True
    return np.where(damaged, -1, np.add.reduceat(runs, firsts))


def _values(codes: np.ndarray, stops: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The values (M,) int64 as they are written, runs and differences.

    `codes` are the characters above "0", `stops` (M,) the last one of each value, `groups` (M,) the number of its
    characters.
    """
    ends = codes[stops].astype(np.int64)
    values = (ends & 15) - (ends & 16)  # the last group has the sign; for most values it is the only one
    rows = np.flatnonzero(groups > 1)
    for before in range(1, MAX_GROUPS):
        values[rows] = (values[rows] << 5) + (codes[stops[rows] - before] & 31)
        rows = rows[groups[rows] > before + 1]
    return values


def _runs(values: np.ndarray, firsts: np.ndarray) -> np.ndarray:
    """The runs (M,) of the written values; `firsts` (S,) are the indices of the first value of each string.

    The first value of a string is a run. The later ones form two chains, at odd and at even positions: each chain
    starts with a run and continues with differences to the run before it in the chain, so a sum along it gives runs.
    """
    sums = np.empty_like(values)  # of every other value, over all strings
    sums[0::2], sums[1::2] = values[0::2].cumsum(), values[1::2].cumsum()
    # of these, what comes before each chain: the chain of even positions starts after the first value
    own, other = sums[firsts], np.where(firsts > 0, sums[firsts - 1], 0)
    stops = np.append(firsts[1:], len(values))
    is_even = firsts % 2 == 0
    runs = np.empty_like(values)
    for parity, before in ((0, np.where(is_even, own, other)), (1, np.where(is_even, other, own))):
        counts = (stops + 1 - parity) // 2 - (firsts + 1 - parity) // 2  # indices of this parity in each string
        runs[parity::2] = sums[parity::2] - np.repeat(before, counts)
    runs[firsts] = values[firsts]
    return runs
