"""The course of a training run, drawn from its log as one SVG: losses, average precision, learning rate.

A log is JSON lines: `{"step": 20, "loss": .., "rpn_objectness": .., "lr": ..}` from training and
`{"step": 500, "bbox_AP": .., "segm_AP": ..}` from an evaluation. The drawing needs no library and no network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rcnn.drawing.page import page, write_page

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT = 560, 300  # of one panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 34, 34  # margins of a panel's axes
_MOST_POINTS = 1500  # of one line: more cannot be told apart at this width
_LOSS_PREFIXES = ("rpn_", "box_", "mask", "keypoint", "loss_")
_KINDS = ("bbox_AP", "segm_AP", "keypoints_AP")


@dataclass(frozen=True)
class _Line:
    name: str
    points: Points
    colour: int
    faint: bool = False  # the measured values behind a smoothed line
    dots: bool = False


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, oldest first. A last line cut short (a run that was killed, or still writes) is left out.

    A resumed run logs some steps again: of two lines of one step and the same fields, the later counts.
    Raises ValueError, with the line's number, where another line is not JSON with a "step".
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records: dict[tuple[float, frozenset[str]], dict[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}, line {number}: not JSON ({error}); wanted one JSON object a line") from error
        if not isinstance(record, dict) or not isinstance(record.get("step"), int | float):
            raise ValueError(
                f'{path}, line {number}: no "step" in it; wanted a line such as {{"step": 20, "loss": 1.5}}'
            )
        records[record["step"], frozenset(record)] = record
    return sorted(records.values(), key=lambda record: record["step"])


def training_curve(records: Sequence[dict[str, Any]]) -> str:
    """An `<svg>` of the log's records, in the colours of the page (page.STYLE) that it stands in."""
    panels = []
    total = _series(records, "loss")
    if total:
        panels.append(_panel("Loss", [_Line("loss", total, 0, faint=True), _Line("smoothed", _smoothed(total), 0)]))
    parts = [name for name in _names(records) if name.startswith(_LOSS_PREFIXES)]
    if parts:
        lines = [_Line(name, _smoothed(_series(records, name)), place) for place, name in enumerate(parts)]
        panels.append(_panel("Loss by part, smoothed", lines))
    precisions = [n for n in _names(records) if n.replace("/", "_").startswith(_KINDS)]
    shown = [n for n in precisions if n.replace("/", "_").endswith(("_AP", "_AP50"))]
    if shown:
        lines = [_Line(name, _series(records, name), place, dots=True) for place, name in enumerate(shown)]
        panels.append(_panel("Average precision", lines, low=0.0))
    rates = _series(records, "lr")
    if rates:
        panels.append(_panel("Learning rate", [_Line("lr", rates, 5)], low=0.0))
    if not panels:
        panels.append(
            f'<text x="{_WIDTH / 2}" y="{_HEIGHT / 2}" text-anchor="middle">The log holds no steps yet.</text>'
        )
    rows = math.ceil(len(panels) / 2)
    columns = min(2, len(panels))
    placed = [
        f'<g transform="translate({(place % 2) * _WIDTH} {(place // 2) * _HEIGHT})">{panel}</g>'
        for place, panel in enumerate(panels)
    ]
    size = f"0 0 {columns * _WIDTH} {rows * _HEIGHT}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img" aria-label="training curves">{"".join(placed)}</svg>'


def write_curve(log: Path, path: Path, title: str = "Training") -> Path:
    """Reads a log and writes its curve as an HTML page at `path`, which it gives back."""
    records = read_log(log)
    last = f"{len(records)} lines, to step {records[-1]['step']}" if records else "no lines yet"
    body = f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(last)}</p>\n<div class="card">{training_curve(records)}</div>'
    return write_page(path, page(title, body))


def _names(records: Sequence[dict[str, Any]]) -> list[str]:
    """Every field of the records, in the order in which they appear."""
    return list(dict.fromkeys(name for record in records for name in record))


def _series(records: Sequence[dict[str, Any]], name: str) -> Points:
    """(step, value) of one field, where it is a finite number; a NaN leaves a gap rather than ruining the axis."""
    found = ((record["step"], record.get(name)) for record in records)
    return [(float(s), float(v)) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]


def _smoothed(points: Points) -> Points:
    """An exponential mean whose memory is a twentieth of the run, without the bias towards its first value."""
    keep = 1 - 1 / max(2.0, len(points) / 20)
    mean, weight, smooth = 0.0, 0.0, []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append((step, mean / weight))
    return smooth


def _panel(title: str, lines: Sequence[_Line], low: float | None = None) -> str:
    """One pair of axes with its lines and, where there are several names, their legend."""
    steps = [step for line in lines for step, _ in line.points]
    values = [value for line in lines for _, value in line.points]
    first, last = min(steps), max(max(steps), min(steps) + 1)
    ticks = _ticks(min(values) if low is None else min(low, *values), max(values))
    bottom, top = ticks[0], ticks[-1]

    def across(step: float) -> float:
        return _LEFT + (step - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def down(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [f'<text class="name" x="{_LEFT}" y="20">{escape(title)}</text>']
    for tick in ticks:
        y = down(tick)
        parts.append(
            f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_written(tick)}</text>'
        )
    for tick in _ticks(first, last, inside=True):
        parts.append(f'<text x="{across(tick):.1f}" y="{_HEIGHT - 12}" text-anchor="middle">{_written(tick)}</text>')
    parts.extend(_drawn(line, across, down) for line in lines)
    if len(lines) > 1:
        parts.append(
            _legend([line for line in lines if not line.faint]) if len(lines) > 2 or not lines[0].faint else ""
        )
    return "".join(parts)


def _drawn(line: _Line, across: Callable[[float], float], down: Callable[[float], float]) -> str:
    step = max(1, math.ceil(len(line.points) / _MOST_POINTS))
    kept = line.points[:-1:step] + line.points[-1:]
    path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in kept)
    ink = f"var(--c{line.colour % 8})"
    look = 'stroke-width="1" opacity=".35"' if line.faint else 'stroke-width="2"'
    drawn = f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-linejoin="round" {look}/>'
    if line.dots or len(line.points) == 1:
        drawn += "".join(
            f'<circle cx="{across(x):.1f}" cy="{down(y):.1f}" r="3.5" fill="{ink}">'
            f"<title>{escape(line.name)} {y:.4g} at step {x:g}</title></circle>"
            for x, y in kept
        )
    return drawn


def _legend(lines: Sequence[_Line]) -> str:
    """Names at the right top, each with the latest value."""
    entries = []
    for place, line in enumerate(lines):
        y = _TOP + 12 + 17 * place
        text = f"{line.name}  {line.points[-1][1]:.3g}"
        entries.append(
            f'<line x1="{_WIDTH - 158}" x2="{_WIDTH - 142}" y1="{y - 4}" y2="{y - 4}" stroke="var(--c{line.colour % 8})" '
            f'stroke-width="3"/><text x="{_WIDTH - 136}" y="{y}">{escape(text)}</text>'
        )
    height = 17 * len(lines) + 8
    ground = (
        f'<rect x="{_WIDTH - 166}" y="{_TOP}" width="150" height="{height}" rx="5" fill="var(--card)" opacity=".8"/>'
    )
    return ground + "".join(entries)


def _ticks(low: float, high: float, inside: bool = False) -> list[float]:
    """About five round numbers that span low..high, or that lie inside it."""
    if high <= low:
        low, high = (low - abs(low) * 0.5, high + abs(high) * 0.5) if low else (0.0, 1.0)
    raw = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= raw * 0.999)
    begin, end = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
    first, last = (
        begin(low / step - 1e-9 * (-1 if not inside else 1)),
        end(high / step + 1e-9 * (-1 if not inside else 1)),
    )
    return [place * step for place in range(first, last + 1)]


def _written(value: float) -> str:
    """A tick as read aloud: 20k, 0.5, 2e-05."""
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2g}"
