"""RUN/report.html: one page with the charts of a run, its evaluations, its settings and how it was started."""

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
    """The HTML page of a run with these log `lines`; `tables`: title -> name -> value.

    `charts`: from `training_svgs`. `lead`: the progress of the run, e.g. "10 of 10 steps, finished." `pictures`: image
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
    """A table with a header row: the main metrics of each evaluation, at most the last LAST_EVALUATIONS."""
    found = [line for line in lines if any(name in line for name in MAIN)][-LAST_EVALUATIONS:]
    names = [name for name in MAIN if any(name in line for line in found)]
    if not names:
        return []
    rows = [[str(int(line["step"]) + 1), *(_number(line.get(name)) for name in names)] for line in found]
    return [["step", *(name.replace("_", " ") for name in names)], *rows]


def _number(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) else "-"
