"""Mutations of JSON values, for fuzzers. RCNN_FUZZ sets the number of mutants."""

from __future__ import annotations

import copy
import math
import os
import re
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

MUTANTS = int(os.environ.get("RCNN_FUZZ", "400"))
CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")
RUNS = {"size": [40, 60], "counts": [410, 20, 20, 20, 1930]}
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 3, 7, 40, 10**6, 10**18, 2**64, 10**400, 0.5, -0.0, 1e18, 1e308, 5e-324,
    math.inf, -math.inf, math.nan, "", "0", "1", "7", "1.png", "2.PNG", "..", "../../x", "a\\1.png", "/", "\0",
    "\ud800", "x" * 300, "x/" * 3000, "a\nb\x1b[2J", "\u2028", "\u202e", "left", "rle",
    [], [[]], [0], [1, 2], [1, 2, 3, 4], [[1, 2], [3, 4], [5, 6]],
    [0.1, 0.1, 0.5, 0.5],    [1, 2, 3, 4, 5, 6], [["a"] * 6], [None] * 4, [1e300] * 6, [10**400] * 4, {}, {"id": 1},
    {"x": 1, "y": 2}, RUNS,
    {"size": [40, 60], "counts": "01"}, {"size": [40, 60], "counts": "P" * 50}, {"size": None, "counts": [2400]},
    {"counts": [1, -1, 2400]}, {"size": [40, 60], "counts": [2400.0]},
]  # fmt: skip


def require_plain_lines(lines: Iterable[str]) -> None:
    """Lines for a terminal, each short and without characters that control it or break tables."""
    for line in lines:
        assert len(line) < 2500, len(line)
        assert not CONTROLS.search(line), ascii(line)
        line.encode()  # can be printed


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value within a JSON value."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in children for place in places(child, (*path, key)))]


def mutate(draw: st.DrawFn, data: Any) -> Any:
    """`data` with one value replaced, removed, doubled, renamed or swapped with another."""
    path = draw(st.sampled_from(places(data)))
    if not path:
        return copy.deepcopy(draw(st.sampled_from(VALUES)))
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    key = path[-1]
    kind = draw(
        st.sampled_from(["replace", "replace", "replace", "remove", "double", "text", "nest", "rename", "json"])
    )
    if kind == "replace":
        parent[key] = copy.deepcopy(draw(st.sampled_from(VALUES)))
    elif kind == "remove":
        del parent[key]
    elif kind == "double" and isinstance(parent, list):
        parent.insert(key, copy.deepcopy(parent[key]))
    elif kind == "text":
        parent[key] = str(parent[key])
    elif kind == "nest":
        for _ in range(draw(st.sampled_from([1, 2, 70, 400]))):
            parent[key] = [parent[key]]
    elif kind == "rename" and isinstance(parent, dict):
        parent[draw(st.sampled_from(["", "id", "ID", "bbox", "regions", "name"]))] = parent.pop(key)
    else:
        parent[key] = draw(
            st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=4), st.lists, max_leaves=6)
        )
    return data
