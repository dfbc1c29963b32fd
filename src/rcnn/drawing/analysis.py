"""The analysis sections of a report: curves, confusions, errors, calibration, thresholds.

Their values are the content of analysis.json (`rcnn.metrics.analysis.Analysis.to_dict`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rcnn.data.messages import cut
from rcnn.drawing.charts import page_svg, set_style
from rcnn.drawing.palette import CHART_COLOURS, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Curve = Sequence[float | None]  # precision at the recalls 0, .01, ... 1

ERRORS = {  # kind of error -> name, meaning
    "class": ("wrong class", "IoU .50 or more with an object of another class"),
    "location": ("wrong location", "IoU .10 to .50 with an object of its class"),
    "both": ("wrong class and location", "IoU .10 to .50 with an object of another class"),
    "duplicate": ("duplicate", "IoU .50 or more with an object that another detection already matches"),
    "background": ("background", "IoU below .10 with every object"),
    "missed": ("missed", "an object that no detection matches, and that has no class or location error"),
}
_MAX_CURVES = 8  # classes with a precision-recall curve
_MAX_MATRIX = 20  # classes in the confusion matrix
_MAX_CONFUSIONS = 15  # rows of the list of confusions


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix."""

    text: str
    share: str  # fraction of its row, 0 to 1: the intensity of the cell's colour


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix: rows are the classes of objects, columns the classes of detections."""

    columns: list[str]
    rows: list[tuple[str, list[Cell]]]
    hidden: int  # classes without a row


@dataclass(frozen=True)
class ErrorRow:
    """A kind of error."""

    name: str
    meaning: str
    gain: str  # increase of AP50 without these errors
    bar: str  # percent of the largest gain
    count: str  # number of these errors, over all scores


@dataclass(frozen=True, kw_only=True)
class Chapters:
    """The values of the template."""

    kind: str  # "boxes" or "masks"
    score: str  # the best threshold
    curves: list[str]  # SVG
    matrix: Matrix
    confusions: list[tuple[str, str, str]]  # class of the objects, class of the detections, count
    errors: list[ErrorRow]
    base: str  # AP50
    calibration: str  # SVG; empty: no detections, or scores outside 0..1
    calibration_error: str
    thresholds: list[tuple[str, list[str]]]  # class -> score, precision, recall, F1
    overall: list[str]  # the same for all classes together; empty: no detection is correct
    counts: list[tuple[str, list[str]]]  # class -> images, objects, small, medium, large, detections


def chapters(analysis: Mapping[str, Any]) -> Chapters:
    """The sections for the content of an analysis.json."""
    per_class: Mapping[str, Any] = analysis["thresholds"]["per_class"]
    counts: Mapping[str, Mapping[str, int]] = analysis["counts"]
    overall = analysis["thresholds"]["overall"]
    names = sorted(counts, key=lambda name: not counts[name]["objects"])  # classes without objects come last
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the browser's font draws the text
        curves = _curves(analysis)
        calibration = _calibration(analysis["calibration"])
    return Chapters(
        kind="masks" if analysis["kind"] == "segm" else "boxes",
        score=metric_text(analysis["score"]),
        curves=curves,
        matrix=_matrix(analysis["confusions"], counts),
        confusions=_confused(analysis["confusions"]),
        errors=_errors(analysis["tide"]),
        base=metric_text(analysis["tide"]["AP50"]),
        calibration=calibration,
        calibration_error=metric_text(analysis["calibration"]["error"]),
        thresholds=[(name, _threshold(per_class[name])) for name in names if name in per_class],
        overall=_threshold(overall) if overall else [],
        counts=[(name, [f"{value:,}" for value in counts[name].values()]) for name in names],
    )


def summary(errors: Sequence[tuple[str, str]]) -> str:
    """The errors (kind, class) of an image in words: `2 missed: cup, kite; 1 duplicate: cup`."""
    parts: list[str] = []
    for kind, (name, _) in ERRORS.items():
        classes = [of_class for found, of_class in errors if found == kind]
        if classes:
            parts.append(f"{len(classes)} {name}: {', '.join(cut(one, 40) for one in dict.fromkeys(classes))}")
    return "; ".join(parts) or "no errors"


def metric_text(value: float | None) -> str:
    """A fraction with three digits, or a dash if there is nothing to measure."""
    return "–" if value is None else f"{value:.3f}"


def _threshold(found: Mapping[str, float] | None) -> list[str]:
    return ["–"] * 4 if found is None else [metric_text(found[name]) for name in ("score", "precision", "recall", "f1")]


def _curves(analysis: Mapping[str, Any]) -> list[str]:
    """Precision-recall curves of all classes together, and of the classes with the most objects."""
    names = {"AP50": "IoU .50", "AP75": "IoU .75", "AP": "mean over IoU .50 to .95"}
    overall = {title: analysis["curves"]["overall"][name] for name, title in names.items()}
    by_objects = sorted(analysis["counts"].items(), key=lambda item: -item[1]["objects"])
    chosen = [name for name, row in by_objects if row["objects"]][:_MAX_CURVES]
    by_class = {name: analysis["curves"]["per_class"][name] for name in chosen}
    charts = [("All classes", overall)]
    if points := analysis["curves"].get("keypoints"):
        charts.append(("Keypoints", {title.replace("IoU", "OKS"): points[name] for name, title in names.items()}))
    if len(by_class) > 1:
        all_shown = len(by_class) == sum(row["objects"] > 0 for _, row in by_objects)
        charts.append((f"By class, IoU .50{'' if all_shown else ' (most objects)'}", by_class))
    return [_curve_chart(title, curves) for title, curves in charts]


def _curve_chart(title: str, curves: Mapping[str, Curve]) -> str:
    shown = {name: [value for value in curve if value is not None] for name, curve in curves.items()}

    def draw(axes: Axes) -> None:
        for number, values in enumerate(shown.values()):
            axes.plot([i / 100 for i in range(len(values))], values, color=CHART_COLOURS[number], linewidth=1.8)
        set_style(axes, title, "recall")
        axes.set_ylabel("precision", color=SOFT)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)

    legend = [cut(name, 24) for name in shown]
    means = ", ".join(f"{cut(name, 40)} {sum(v) / len(v):.3f}" for name, v in shown.items() if v)
    return page_svg(draw, f"Precision over recall, {title}; mean precision: {means or 'nothing to measure'}", legend)


def _calibration(found: Mapping[str, Any]) -> str:
    """Precision of the detections by score, beside the diagonal of perfect calibration."""
    bins: Sequence[Mapping[str, float]] = found["bins"]
    if not bins:
        return ""

    def draw(axes: Axes) -> None:
        left, width = [one["from"] for one in bins], [one["to"] - one["from"] for one in bins]
        axes.bar(left, [one["precision"] for one in bins], width, align="edge", color=CHART_COLOURS[0], alpha=0.8)
        axes.plot([0, 1], [0, 1], color=SOFT, linestyle="--", linewidth=1)
        set_style(axes, "Calibration", "score; dashed: perfect")
        axes.set_ylabel("precision at IoU .50", color=SOFT)
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)

    rows = ", ".join(f"{one['from']:.1f} to {one['to']:.1f}: {one['precision']:.2f}" for one in bins)
    return page_svg(draw, f"Precision of detections by score; {rows}")


def _matrix(confusions: Sequence[Mapping[str, Any]], counts: Mapping[str, Any]) -> Matrix:
    """The matrix of the classes with the most confusions with another class; of all classes if they are few."""
    table = {(one["truth"], one["predicted"]): int(one["count"]) for one in confusions}
    present = [name for name in counts if any(name in pair for pair in table)]
    mixed = {
        name: sum(n for pair, n in table.items() if name in pair and pair[0] != pair[1] and "" not in pair)
        for name in present
    }
    chosen = set(sorted(present, key=lambda name: -mixed[name])[:_MAX_MATRIX])
    shown = [*(name for name in present if name in chosen), ""]
    rows: list[tuple[str, list[Cell]]] = []
    for truth in shown:
        total = sum(n for (row, _), n in table.items() if row == truth)
        found = [table.get((truth, predicted), 0) for predicted in shown]
        cells = [Cell(f"{n:,}" if n else "", f"{n / total if total else 0:.3f}") for n in found]
        rows.append((truth or "background", cells))
    return Matrix([name or "not found" for name in shown], rows, len(present) - len(shown) + 1)


def _confused(confusions: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    mixed = [one for one in confusions if one["truth"] and one["predicted"] and one["truth"] != one["predicted"]]
    return [(one["truth"], one["predicted"], f"{one['count']:,}") for one in mixed[:_MAX_CONFUSIONS]]


def _errors(tide: Mapping[str, Any]) -> list[ErrorRow]:
    largest = max(tide["delta"].values()) or 1.0
    return [
        ErrorRow(name, meaning, f"+{gain:.3f}", f"{100 * gain / largest:.1f}", f"{tide['counts'][kind]:,}")
        for kind, (name, meaning) in ERRORS.items()
        for gain in (max(0.0, tide["delta"][kind]),)
    ]
