"""The metrics as text for a terminal or a log: a table of the metrics with their meaning, and a table by class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from rcnn.data.messages import KIND_TITLES, cut
from rcnn.metrics.values import CLASS_METRICS, SIZES, Metrics, Number

DESCRIPTIONS = {
    "AP": "mean over IoU .50:.05:.95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "APs": "small, under 32 x 32 pixels",
    "APm": "medium",
    "APl": "large, over 96 x 96 pixels",
    "AR": "recall, mean over IoU .50:.05:.95",
    "AR50": "recall at IoU .50",
    "AR75": "recall at IoU .75",
    "ARs": "recall, small",
    "ARm": "recall, medium",
    "ARl": "recall, large",
    "AP70": "at IoU .70",
    "APr": "rare classes",
    "APc": "common classes",
    "APf": "frequent classes",
}
# meaning of AP in VOC's metrics
VOC_DESCRIPTIONS = {
    "voc2007": "VOC 2007's: at IoU .50, mean over 11 recalls",
    "voc2012": "VOC 2012's: at IoU .50, area under the curve",
}
_ONE_COLUMN = 16  # up to this number of classes: one column of classes, with AP50
_GAP = 4  # characters between the columns of a table of many classes


def metrics_table(metrics: Metrics, width: int = 80, *, per_class: bool = False) -> str:
    """Two aligned tables, overall and per class, in lines of up to `width` characters; "-": no object to measure on.

    Classes without objects are counted, but not listed. Many classes are printed in several columns, ordered downwards.
    Names that do not fit are cut and end in "…". `per_class`: the table of `per_class_table` instead of the short one.
    """
    totals = {"image": metrics.images, "object": sum(metrics.objects.values()), "detection": metrics.detections}
    counts = ", ".join(f"{count:,} {noun}{'' if count == 1 else 's'}" for noun, count in totals.items())
    classes = [per_class_table(metrics)] if per_class else _by_class(metrics, width)
    return "\n".join([counts, "", *_overall(metrics), "", *classes])


def per_class_table(metrics: Metrics) -> str:
    """One line per class and kind: name, AP, AP50, AP75, small, medium, large, AR, as `0.123` or `-`.

    Classes without objects are counted, but not listed.
    """
    names = _with_objects(metrics)
    tables: list[str] = []
    for kind, title in KIND_TITLES.items():
        if "AP" not in metrics.kinds.get(kind, {}) or not names:
            continue
        head = [f"class ({title})", *(_column(name) for name in CLASS_METRICS)]
        rows = [
            [cut(name, 60), *(number(metrics.per_class[name][kind].get(metric)) for metric in CLASS_METRICS)]
            for name in names
        ]
        tables.append("\n".join(aligned([head, *rows], left=(0,))))
    return "\n\n".join([*tables, *_not_listed(metrics)])


def per_class_csv(metrics: Metrics) -> str:
    """The table of `per_class_table` as CSV, with the number of objects; an empty cell: no object to measure on."""
    others = {m for of_class in metrics.per_class.values() for found in of_class.values() for m in found}
    columns = [*CLASS_METRICS, *sorted(others - set(CLASS_METRICS))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["kind", "class", "objects", *(_column(name) for name in columns)])
    for kind in metrics.kinds:
        for name, kinds in metrics.per_class.items():
            values = [kinds[kind].get(metric) for metric in columns]
            cells = ["" if value is None else f"{value:.6f}" for value in values]
            writer.writerow([kind, name, metrics.objects[name], *cells])
    return file.getvalue()


def _column(metric: str) -> str:
    """The title of a column: small, medium and large for APs, APm and APl."""
    return SIZES.get(metric.removeprefix("AP"), metric)


def number(value: Number) -> str:
    """A metric with three digits, or "-" if the ground truth has no object to measure on."""
    return "-" if value is None else f"{value:.3f}"


def _description(name: str, metrics: Metrics) -> str:
    metric = metrics.metric
    if name == "AP" and metric in VOC_DESCRIPTIONS:
        return VOC_DESCRIPTIONS[metric]
    if name in DESCRIPTIONS:
        return DESCRIPTIONS[name]
    count = name.removeprefix("AR").rstrip("".join(SIZES))  # AR1, AR10, AR1000s, or another limit of detections
    size = SIZES.get(name[-1])
    proposals = "proposals" in metrics.kinds  # class-agnostic, also their boxes
    noun = "proposal" if proposals else "detection"
    best = noun if count == "1" else f"{count} {noun}s"
    limit = "per image" if proposals or metric == "lvis" else "per image and class"
    return f"recall of the best {best} {limit}{f', {size}' if size else ''}"


def _overall(metrics: Metrics) -> list[str]:
    names = list(dict.fromkeys(name for values in metrics.kinds.values() for name in values))
    rows = [["", *(KIND_TITLES[kind] for kind in metrics.kinds), ""]]
    for name in names:
        values = [number(found[name]) if name in found else "" for found in metrics.kinds.values()]
        rows.append([name, *values, _description(name, metrics)])
    return aligned(rows, left=(0, len(rows[0]) - 1))


def _by_class(metrics: Metrics, width: int) -> list[str]:
    names = _with_objects(metrics)
    return [*(_table_of_classes(metrics, names, width) if names else []), *_not_listed(metrics)]


def _with_objects(metrics: Metrics) -> list[str]:
    """The classes that have objects."""
    return [name for name in metrics.per_class if metrics.objects[name]]


def _not_listed(metrics: Metrics) -> list[str]:
    """A line with the number of classes without objects, if there are any."""
    empty = len(metrics.per_class) - len(_with_objects(metrics))
    noun = "class without objects is" if empty == 1 else "classes without objects are"
    return [f"{empty} {noun} not listed"] if empty else []


def _table_of_classes(metrics: Metrics, names: Sequence[str], width: int) -> list[str]:
    few = len(names) <= _ONE_COLUMN
    shown = ("AP", "AP50") if few else ("AP",)
    kinds = [kind for kind in metrics.kinds if "AP" in metrics.kinds[kind]]
    titles = [f"{KIND_TITLES[kind]} {name}" if few else KIND_TITLES[kind] for kind in kinds for name in shown]
    head = ["AP by class" if not few else "class", "objects", *titles]
    values = [
        [f"{metrics.objects[name]:,}", *(number(metrics.per_class[name][kind][m]) for kind in kinds for m in shown)]
        for name in names
    ]
    taken = sum(2 + max(len(row[index]) for row in [head[1:], *values]) for index in range(len(head) - 1))
    room = max(8, width - taken)
    rows = [[cut(name, room), *row] for name, row in zip(names, values, strict=True)]
    lines = aligned([head, *rows], left=(0,))
    if few:
        return lines
    wide = max(len(line) for line in lines)
    columns = max(1, (width + _GAP) // (wide + _GAP))
    height = -(-len(rows) // columns)
    blocks = [[lines[0], *lines[1:][start : start + height]] for start in range(0, len(rows), height)]
    return [
        (" " * _GAP).join(f"{block[row]:{wide}}" for block in blocks if row < len(block)).rstrip()
        for row in range(height + 1)
    ]


def aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows of equal length as lines, two spaces between columns; columns in `left` are aligned left."""
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(widths[index]) if index in left else text.rjust(widths[index]) for index, text in enumerate(row)
        ).rstrip()
        for row in rows
    ]
