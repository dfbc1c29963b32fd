"""Run lengths of COCO's masks: computed from a region of an image, and summed from compressed strings.

Letters: S strings, M values of all strings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

MAX_GROUPS = 10  # of 5 bits in a value; more cannot be a run of an image


def region_changes(x0: int, y0: int, mask: np.ndarray, height: int) -> np.ndarray:
    """Where an image of `height` rows that contains only `mask` (h, w) bool at (x0, y0) changes, along its columns.

    The positions x * height + y, int64, ascending, are the cumulative sums of the run lengths.
    """
    h, w = mask.shape
    padded = np.zeros((w, h + 2), dtype=np.int8)  # columns become rows, an empty pixel before and after each
    padded[:, 1:-1] = np.asarray(mask, dtype=bool).T
    change = np.diff(padded, axis=1)  # (w, h + 1): 1 where a run starts, -1 one past its end
    column, row = np.nonzero(change)  # start, end, start, end, ...: each column's runs are closed
    positions = (x0 + column) * height + y0 + row
    # a run that ends at the bottom of a column continues at the top of the next
    joined = np.zeros(len(positions), dtype=bool)
    same = (positions[1:] == positions[:-1]) & (change[column[1:], row[1:]] > 0)
    joined[1:] |= same
    joined[:-1] |= same
    return positions[~joined]


def run_totals(strings: Sequence[bytes]) -> np.ndarray:
    """The number of pixels (S,) int64 of each string of compressed run lengths; -1 for a damaged string.

    A value is written in groups of 5 bits, lowest first, each a character above "0" with a sixth bit while more follow;
    from the fourth value on it is the difference to the run two before (COCO's maskApi.c, rleToString).
    """
    totals = np.full(len(strings), -1, dtype=np.int64)
    filled = [index for index, string in enumerate(strings) if string]
    if filled:
        runs, string, damaged = _runs([strings[index] for index in filled])
        sums = np.zeros(len(filled), dtype=np.int64)
        np.add.at(sums, string, runs)
        sums[damaged] = -1
        totals[filled] = sums
    return totals


def _runs(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The runs (M,) of non-empty strings, the string that each belongs to (M,), and (S,) bool: a string is damaged."""
    values, string, damaged = _decoded(strings)
    runs = _summed(values, string)
    damaged[string[runs < 0]] = True
    return runs, string, damaged


def _decoded(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The values (M,) as they are written, runs and differences; the rest as `_runs`."""
    starts = np.cumsum([0, *map(len, strings)])[:-1]
    codes = np.frombuffer(b"".join(strings), dtype=np.uint8).astype(np.int64) - 48
    owner = np.repeat(np.arange(len(strings)), list(map(len, strings)))
    damaged = np.zeros(len(strings), dtype=bool)
    damaged[owner[(codes < 0) | (codes > 63)]] = True
    follows = (codes & 32) != 0
    first = np.ones(len(codes), dtype=bool)  # a character that begins a value
    first[1:] = ~follows[:-1]
    first[starts] = True
    begins = np.flatnonzero(first)  # (M,)
    lengths = np.diff(begins, append=len(codes))
    string = owner[begins]
    damaged[string[lengths > MAX_GROUPS]] = True
    damaged[follows[np.append(starts[1:], len(codes)) - 1]] = True  # a last value that is cut off
    shift = 5 * np.minimum(np.arange(len(codes)) - np.repeat(begins, lengths), MAX_GROUPS)
    values = np.add.reduceat((codes & 31) << shift, begins)
    ends = np.append(begins[1:], len(codes)) - 1
    negative = (codes[ends] & 16) != 0
    values[negative] -= np.int64(1) << (shift[ends[negative]] + 5)
    return values, string, damaged


def _summed(values: np.ndarray, string: np.ndarray) -> np.ndarray:
    """The runs (M,) of the written values.

    The first value of a string is a run. The later ones form two chains, at odd and at even positions: each chain
    starts with a run and continues with differences to the run before it in the chain, so a sum along it gives runs.
    """
    lengths = np.bincount(string)
    starts = np.cumsum(lengths) - lengths
    order = np.arange(len(values)) - starts[string]  # position of a value in its string
    chain = np.where(order == 0, 0, 1 + order % 2)
    evens = (lengths - 1) // 2  # values at even positions after the first
    place = starts[string] + order // 2 + np.where(chain == 2, 1 + evens[string], 0)  # by string, chain, position
    along = np.empty_like(place)
    along[place] = np.arange(len(place))
    sums = np.cumsum(values[along])
    new = np.ones(len(along), dtype=bool)  # the first value of a chain
    new[1:] = (string[along][1:] != string[along][:-1]) | (chain[along][1:] != chain[along][:-1])
    before = (sums - values[along])[new]  # the sum of all values before each chain
    runs = np.empty_like(values)
    runs[along] = sums - np.repeat(before, np.diff(np.flatnonzero(new), append=len(along)))
    return runs
