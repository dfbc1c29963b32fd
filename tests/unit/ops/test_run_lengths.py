"""Compressed run lengths, sound and damaged, against a decoder that reads one character after the other."""

from __future__ import annotations

import numpy as np
import pytest

from rcnn.ops import run_lengths
from rcnn.ops.run_lengths import run_totals


def total_of(string: bytes) -> int:
    """COCO's rleFrString, with -1 for a string that is cut off, has another character or a negative run."""
    runs: list[int] = []
    value = groups = 0
    for code in (character - 48 for character in string):
        if not 0 <= code < 64 or groups == 10:
            return -1
        value |= (code & 31) << 5 * groups
        groups += 1
        if code & 32:
            continue
        value -= (code & 16) << 1 + 5 * (groups - 1)
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = groups = 0
    return -1 if groups or not runs or min(runs) < 0 else sum(runs)


@pytest.mark.parametrize("characters", [1, 40, 100_000])
def test_totals_equal_those_of_a_slow_decoder(characters: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many strings are read at once; most are random characters, so that all kinds of damage occur."""
    monkeypatch.setattr(run_lengths, "CHARACTERS", characters)
    random = np.random.default_rng(0)
    ranges = [(48, 64), (48, 112), (40, 116), (80, 112)]
    strings = [
        bytes(random.integers(*ranges[number % 4], size=random.integers(0, 14)).tolist()) for number in range(2000)
    ]
    expected = [total_of(string) for string in strings]
    assert 300 < sum(total >= 0 for total in expected) < 1700
    assert run_totals(strings).tolist() == expected


def test_no_strings_have_no_totals() -> None:
    assert run_totals([]).tolist() == []
    assert run_totals([b"", b""]).tolist() == [-1, -1]
