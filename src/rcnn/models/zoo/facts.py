"""What is known of the named models: where they come from, what others reached with them, what they cost.

Both tables are data beside this file. sizes.json is written by `python benchmarks/model_sizes.py`, and a test counts
again; published.json holds the systems' own figures on COCO val2017 (minival), as their papers and pages give them.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Published(NamedTuple):
    """What a system reports of a model that it trained."""

    system: str
    schedule: str  # as it calls it: 1x, 26 epochs
    ap: str  # box, or box / mask AP in percent; words say what else


class Facts(NamedTuple):
    """One line of the table."""

    paper: str  # empty: a model of ours
    published: tuple[Published, ...]
    parameters: int
    gflops: float  # of one image at 800 x 1333; a multiplication and its addition are two


@cache
def facts() -> dict[str, Facts]:
    """The facts of every model, by its name."""
    here = files("rcnn.models.zoo")
    published = json.loads((here / "published.json").read_text(encoding="utf-8"))
    sizes = json.loads((here / "sizes.json").read_text(encoding="utf-8"))
    return {
        name: Facts(
            paper=known["paper"],
            published=tuple(Published(*row) for row in known["published"]),
            parameters=sizes[name]["parameters"],
            gflops=sizes[name]["gflops"],
        )
        for name, known in published.items()
        if name in sizes
    }
