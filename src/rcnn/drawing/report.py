"""The report of an evaluation: one self-contained HTML file with metrics, charts and pictures.

write_report(
    Path("out/report.html"),
    title="Mask R-CNN on balloons",
    lead="60 training photos, 13 for validation.",
    metrics=evaluation.metrics.to_dict(),
    examples=[Example(name="a.jpg", detections=draw_objects(...), ground_truth=draw_objects(...))],
    log=read_log(run / "log.jsonl"),
    details={"Command": "rcnn demo", "Versions": "rcnn 0.2.0, torch 2.11.0"},
)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from rcnn.data.messages import KIND_TITLES
from rcnn.drawing.analysis import ERRORS, chapters, metric_text, summary
from rcnn.drawing.charts import training_svgs
from rcnn.drawing.embedding import Figure, embedded
from rcnn.drawing.pages import render

Values = Mapping[str, float | None]  # name of a metric -> fraction 0..1; None: no object to measure on

_TITLES = {kind: title.capitalize() for kind, title in KIND_TITLES.items()}
_VOC = "AP is VOC's average precision {year}. Difficult objects are ignored."
_AP70 = " AP70: at IoU .70."
_MEANINGS = {  # metric -> the meaning of its numbers
    "coco": "AP is COCO's average precision, the mean over IoU (keypoints: OKS) thresholds .50 to .95; AP50 and AP75 "
    "are at one threshold. s, m and l: objects under 32 x 32 pixels, up to 96 x 96, and larger. AR is average recall; "
    "a number N after it: of the best N detections per image and class (proposals: per image).",
    "lvis": "AP is LVIS' average precision, the mean over IoU thresholds .50 to .95; AP50 and AP75 are at one "
    "threshold. APr, APc and APf: rare, common and frequent classes. s, m and l: objects under 32 x 32 pixels, up to "
    "96 x 96, and larger. AR is average recall; a number N after it: of the best N detections per image.",
    "voc2007": _VOC.format(year="of 2007, at IoU .50, the mean over 11 recalls"),
    "voc2012": _VOC.format(year="of 2010 to 2012, at IoU .50, the area under the curve"),
}
_CLASS_COLUMNS = {  # title of a column -> metric
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "small": "APs", "medium": "APm", "large": "APl", "AR": "AR",
}  # fmt: skip
_DASH = " A dash means that the ground truth has no object to measure on."


@dataclass(frozen=True, kw_only=True)
class Example:
    """One image of the report: its detections, and its ground truth if it is known."""

    name: str  # file name of the image
    detections: Image.Image
    ground_truth: Image.Image | None = None
    note: str = ""  # beside the name
    errors: tuple[tuple[str, str], ...] = ()  # (kind of error, class), for the filters of the page


@dataclass(frozen=True)
class _Table:
    columns: tuple[str, ...]
    rows: list[tuple[str, list[str]]]  # heading, cells


@dataclass(frozen=True)
class _ClassTable:
    title: str  # title of the kind, e.g. Box
    rows: list[tuple[str, str, str | None, list[str]]]  # name, objects, width of the bar (percent), metrics


@dataclass(frozen=True)
class _ExampleFigures:
    name: str
    note: str
    figures: list[Figure]
    errors: list[tuple[str, str]]


def write_report(
    path: Path,
    *,
    title: str,
    lead: str,
    metrics: Mapping[str, Any],
    analysis: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
    examples: Sequence[Example] = (),
    log: Sequence[Mapping[str, Any]] = (),
    details: Mapping[str, str],
) -> Path:
    """Write the report to `path` (a temporary one of `OutputFolder.writing`), and return `path`.

    `metrics`: the content of metrics.json (Metrics.to_dict()). `analysis`: the content of analysis.json (None: no
    sections on errors and thresholds). `log`: the lines of log.jsonl (empty: no section on training). `details`: other
    facts (command, versions). All text is plain. Large pictures are reduced to the size in the page.
    """
    html = render(
        "report.html",
        title=title,
        lead=lead,
        warnings=warnings,
        tiles=_tiles(metrics),
        overall=_overall(metrics),
        meanings=_MEANINGS[metrics.get("metric", "coco")]
        + (_AP70 if "AP70" in metrics.get("segm", {}) else "")
        + _DASH,
        examples=[_figures(example) for example in examples],
        class_columns=_CLASS_COLUMNS,
        classes=[_by_class(metrics, kind) for kind in _precise(metrics)],
        analysis=None if analysis is None else chapters(analysis),
        error_classes=sorted({name for example in examples for _, name in example.errors}),
        error_names={kind: name for kind, (name, _) in ERRORS.items()},
        charts=training_svgs(log),
        details=details,
    )
    path.write_text(html, encoding="utf-8", errors="backslashreplace")  # as `OutputFolder.write_text`
    return path


def _precise(metrics: Mapping[str, Any]) -> list[str]:
    """The kinds with average precision."""
    return [kind for kind in _TITLES if "AP" in metrics.get(kind, {})]


def _tiles(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The main metrics: (name, value)."""
    tiles = [
        (f"{_TITLES[k]} {name}", metric_text(metrics[k][name])) for k in _precise(metrics) for name in ("AP", "AP50")
    ]
    counts = metrics["counts"]
    tiles += [("images", f"{counts['images']:,}"), ("ground-truth objects", f"{sum(counts['objects'].values()):,}")]
    return [*tiles, ("detections", f"{counts['detections']:,}")]


def _overall(metrics: Mapping[str, Any]) -> list[_Table]:
    """One row per kind; kinds with different metrics (keypoints, proposals) have a separate table."""
    tables: dict[tuple[str, ...], _Table] = {}
    for kind, title in _TITLES.items():
        if kind in metrics:
            values: Values = metrics[kind]
            table = tables.setdefault(tuple(values), _Table(tuple(values), []))
            table.rows.append((title, [metric_text(value) for value in values.values()]))
    return list(tables.values())


def _by_class(metrics: Mapping[str, Any], kind: str) -> _ClassTable:
    """One row per class, with AP also as a bar; the classes without objects come last."""
    rows: list[tuple[str, str, str | None, list[str]]] = []
    objects: Mapping[str, int] = metrics["counts"]["objects"]
    for name in sorted(metrics["per_class"], key=lambda name: not objects[name]):
        values: Values = metrics["per_class"][name][kind]
        average = values["AP"]
        bar = None if average is None else f"{100 * average:.1f}"
        cells = [metric_text(values.get(metric)) for metric in _CLASS_COLUMNS.values()]
        rows.append((name, f"{objects[name]:,}", bar, cells))
    return _ClassTable(_TITLES[kind], rows)


def _figures(example: Example) -> _ExampleFigures:
    """The detections, and the ground truth, if it is known, on their left."""
    figures = [embedded(example.detections, f"Detections in {example.name}", "detections")]
    if example.ground_truth is not None:
        figures.insert(0, embedded(example.ground_truth, f"Ground truth of {example.name}", "ground truth"))
    note = "; ".join(part for part in (example.note, summary(example.errors) if example.errors else "") if part)
    return _ExampleFigures(example.name, note, figures, list(example.errors))
