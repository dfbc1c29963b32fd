"""COCO's numbers as text for a terminal or a log: what each one means beside it, then one row a class."""

from __future__ import annotations

from collections.abc import Sequence

from rcnn.metrics.coco import METRICS, Metrics, Number

TITLES = {"bbox": "box", "segm": "mask", "keypoints": "keypoints", "proposals": "proposals"}
MEANINGS = {
    "AP": "mean over IoU .50:.05:.95",
    "AP50": "at IoU .50",
    "AP75": "at IoU .75",
    "APs": "small, under 32 x 32 pixels",
    "APm": "medium",
    "APl": "large, over 96 x 96 pixels",
    "AR": "recall, of the 20 best an image",
    "AR50": "recall at IoU .50",
    "AR75": "recall at IoU .75",
    "AR1": "recall, of the best one an image",
    "AR10": "recall, of the 10 best an image",
    "AR100": "recall, of the 100 best an image",
    "AR1000": "recall, of the 1000 best an image",
    "AR1000s": "recall of 1000, small",
    "AR1000m": "recall of 1000, medium",
    "AR1000l": "recall of 1000, large",
    "ARs": "recall, small",
    "ARm": "recall, medium",
    "ARl": "recall, large",
}
_FEW = 16  # classes of which AP50 is shown too, in one column
_GAP = 4  # characters between the columns of a table of many classes


def metrics_table(metrics: Metrics, width: int = 80) -> str:
    """Two aligned tables, overall and by class, in lines of at most `width` characters; "-": nothing to measure on.

    Many classes stand in as many columns as fit, to be read downwards. Names too long to fit are cut, ending in "…".
    """
    counts = f"{metrics.images:,} images, {sum(metrics.objects.values()):,} objects, {metrics.detections:,} detections"
    return "\n".join([counts, "", *_overall(metrics), "", *_by_class(metrics, width)])


def number(value: Number) -> str:
    """A metric as we print it everywhere: three digits, or "-" where the truth held nothing to measure."""
    return "-" if value is None else f"{value:.3f}"


def _overall(metrics: Metrics) -> list[str]:
    names = list(dict.fromkeys(name for kind in metrics.kinds for name in METRICS[kind]))
    rows = [["", *(TITLES[kind] for kind in metrics.kinds), ""]]
    for name in names:
        values = [number(found[name]) if name in found else "" for found in metrics.kinds.values()]
        rows.append([name, *values, MEANINGS[name]])
    return _aligned(rows, left=(0, len(rows[0]) - 1))


def _by_class(metrics: Metrics, width: int) -> list[str]:
    few = len(metrics.per_class) <= _FEW
    shown = ("AP", "AP50") if few else ("AP",)
    kinds = [kind for kind in metrics.kinds if "AP" in METRICS[kind]]
    titles = [f"{TITLES[kind]} {name}" if few else TITLES[kind] for kind in kinds for name in shown]
    head = ["AP by class" if not few else "class", "objects", *titles]
    values = [
        [f"{metrics.objects[name]:,}", *(number(found[kind][m]) for kind in kinds for m in shown)]
        for name, found in metrics.per_class.items()
    ]
    taken = sum(2 + max(len(row[place]) for row in [head[1:], *values]) for place in range(len(head) - 1))
    room = max(8, width - taken)
    rows = [[_cut(name, room), *row] for name, row in zip(metrics.per_class, values, strict=True)]
    lines = _aligned([head, *rows], left=(0,))
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


def _cut(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1] + "…"


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int]) -> list[str]:
    """Rows of equal length as lines: two spaces between columns, those of `left` aligned left, the others right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return [
        "  ".join(
            text.ljust(widths[place]) if place in left else text.rjust(widths[place]) for place, text in enumerate(row)
        ).rstrip()
        for row in rows
    ]
