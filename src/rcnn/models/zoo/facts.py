"""Facts about the named models: paper, published AP, number of parameters and FLOPs.

`python benchmarks/model_sizes.py` writes sizes.json, and a test checks it. published.json has the figures on COCO
val2017 (minival) from papers and project pages.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import NamedTuple


class Published(NamedTuple):
    """A figure that a system published for its own training of a model."""

    system: str
    schedule: str  # in its own terms: 1x, 26 epochs
    ap: str  # box AP, or box / mask AP, in percent; other metrics are named


class Facts(NamedTuple):
    """One line of the table."""

    paper: str  # empty: a model of this library
    published: tuple[Published, ...]
    parameters: int
    gflops: float  # for one image of 800 x 1333; one multiply-add counts as two


@cache
def facts() -> dict[str, Facts]:
    """The facts of all models, by name."""
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
