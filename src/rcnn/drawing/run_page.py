"""RUN/report.html: the charts of a run, its evaluations, and everything that it was started with, on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rcnn.drawing.charts import LogLine
from rcnn.drawing.pages import render

MAIN = ("bbox_AP", "bbox_AP50", "segm_AP", "segm_AP50", "keypoints_AP", "keypoints_AP50", "validation_loss")
LAST_EVALUATIONS = 50  # rows of the table


def run_page(
    title: str,
    lines: Sequence[LogLine],
    charts: Sequence[str],
    tables: Mapping[str, Mapping[str, str]],
    *,
    lead: str,
    pictures: Mapping[str, Sequence[tuple[int, str]]] | None = None,
) -> str:
    """The page of a run with these log `lines`; `tables`: title -> name -> value.

    `charts` are from `training_svgs`; `lead`: how far the run came, e.g. 10 of 10 steps, finished. `pictures`: image
    -> steps and paths of its pictures, relative to the page.
    """
    return render(
        "run.html",
        title=title,
        lead=lead,
        charts=charts,
        evaluations=_evaluations(lines),
        pictures=pictures or {},
        tables=tables,
    )


def _evaluations(lines: Sequence[LogLine]) -> list[list[str]]:
    """A table with a head: the main metrics of each evaluation, the last of them if there are many."""
    found = [line for line in lines if any(name in line for name in MAIN)][-LAST_EVALUATIONS:]
    names = [name for name in MAIN if any(name in line for line in found)]
    if not names:
        return []
    rows = [[str(int(line["step"]) + 1), *(_number(line.get(name)) for name in names)] for line in found]
    return [["step", *(name.replace("_", " ") for name in names)], *rows]


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"
