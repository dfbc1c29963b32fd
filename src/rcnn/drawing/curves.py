"""The course of a training run, drawn from the lines of its log as one SVG: losses, average precision, learning rate.

A line is `{"step": 20, "loss": .., "rpn_objectness": .., "lr": ..}` from training, its other numbers the parts of the
loss, or `{"step": 499, "bbox_AP": .., "segm_AP50": ..}` from an evaluation. No library, script or network is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from rcnn.drawing.page import page, write_page

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT = 560, 300  # of one panel
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 34, 48  # margins of a panel's axes
_LEGEND = 190  # its width
_MOST_POINTS = 1500  # of one line: more cannot be told apart at this width
_NOT_PARTS = ("step", "seconds", "loss", "lr")  # of a line of training: what is not a part of the loss
PRECISIONS = {  # field of a line -> what it is called
    f"{kind}_{name}": f"{title} {name}"
    for kind, title in (("bbox", "box"), ("segm", "mask"), ("keypoints", "keypoint"))
    for name in ("AP", "AP50")
}


@dataclass(frozen=True)
class _Line:
    name: str
    points: Points
    colour: int
    faint: bool = False  # the measured values behind a smoothed line
    dots: bool = False


def training_curve(lines: Sequence[dict[str, Any]]) -> str:
    """An `<svg>` of the log's lines, in the colours of the page (page.STYLE) that it stands in."""
    panels, told = [], []
    steps = [float(line["step"]) for line in lines]  # one axis for all panels
    total = series(lines, "loss")
    if total:
        smooth = _smoothed(total)
        panels.append(_panel("Loss", [_Line("as logged", total, 0, faint=True), _Line("smoothed", smooth, 0)], steps))
        told.append(f"loss from {smooth[0][1]:.3g} to {smooth[-1][1]:.3g} at step {smooth[-1][0]:g}")
    drawn = [_Line(name, _smoothed(series(lines, name)), place) for place, name in enumerate(loss_parts(lines))]
    if drawn := [line for line in drawn if line.points]:
        panels.append(_panel("Parts of the loss, smoothed", drawn, steps, low=0.0))
    precisions = [(title, series(lines, name)) for name, title in PRECISIONS.items()]
    drawn = [_Line(title, points, place, dots=True) for place, (title, points) in enumerate(precisions) if points]
    if drawn:
        panels.append(_panel("Average precision", drawn, steps, low=0.0))
        told += [f"{line.name} {line.points[-1][1]:.3f}" for line in drawn]
    rates = series(lines, "lr")
    if rates:
        panels.append(_panel("Learning rate", [_Line("lr", rates, 5)], steps, low=0.0))
    if not panels:
        return '<p class="note">The log holds no steps yet.</p>'
    columns = min(2, len(panels))
    placed = [
        f'<g transform="translate({(place % 2) * _WIDTH} {(place // 2) * _HEIGHT})">{panel}</g>'
        for place, panel in enumerate(panels)
    ]
    size = f"0 0 {columns * _WIDTH} {math.ceil(len(panels) / 2) * _HEIGHT}"
    label = escape(f"Training curves: {', '.join(told) or 'learning rate'}", quote=True)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}" role="img" aria-label="{label}">'
    return f"{head}{''.join(placed)}</svg>"


def write_curve(path: Path, lines: Sequence[dict[str, Any]], title: str = "Training") -> Path:
    """Write the charts of a log's lines as an HTML page to `path`, and return `path`."""
    return write_page(path, curve_page(lines, title))


def curve_page(lines: Sequence[dict[str, Any]], title: str = "Training") -> str:
    """The charts of a log's lines as an HTML page."""
    last = f"{len(lines)} lines of the log, to step {lines[-1]['step']}" if lines else "The log is empty."
    card = f'<div class="card">{training_curve(lines)}</div>'
    return page(title, f'<h1>{escape(title)}</h1>\n<p class="lead">{last}</p>\n{card}')


def loss_parts(lines: Sequence[dict[str, Any]]) -> list[str]:
    """The fields that are parts of the loss, in the order in which they appear."""
    fields = dict.fromkeys(name for line in lines if "loss" in line for name in line)
    return [name for name in fields if name not in _NOT_PARTS]


def series(lines: Sequence[dict[str, Any]], name: str) -> Points:
    """(step, value) of one field where it is a finite number; a NaN leaves a gap rather than ruining the axis."""
    found = ((line["step"], line.get(name)) for line in lines)
    return [(float(s), float(v)) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]


def _smoothed(points: Points) -> Points:
    """An exponential mean whose memory is a twentieth of the run, without the bias towards its first value."""
    keep = 1 - 1 / max(2.0, len(points) / 20)
    mean, weight, smooth = 0.0, 0.0, []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append((step, mean / weight))
    return smooth


def _panel(title: str, lines: Sequence[_Line], steps: Sequence[float], low: float | None = None) -> str:
    """One pair of axes, over the range of `steps`, with its lines and, where there are several, their legend."""
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
    foot = _HEIGHT - _BOTTOM + 18
    for tick in _ticks(first, last, inside=True):
        parts.append(f'<text x="{across(tick):.1f}" y="{foot}" text-anchor="middle">{_written(tick)}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{foot + 18}" text-anchor="middle">step</text>')
    parts.extend(_drawn(line, across, down) for line in lines)
    if len(lines) > 1:
        high = 17 * len(lines) + 6
        under = [down(v) for line in lines for s, v in line.points if across(s) > _WIDTH - _RIGHT - _LEGEND]
        hidden = sum(y < _TOP + high for y in under) > sum(y > _HEIGHT - _BOTTOM - high for y in under)
        parts.append(_legend(lines, _HEIGHT - _BOTTOM - high - 4 if hidden else _TOP))
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


def _legend(lines: Sequence[_Line], top: float) -> str:
    """Names at the right, from `top` down, each with its latest value."""
    entries, left = [], _WIDTH - _RIGHT - _LEGEND
    for place, line in enumerate(lines):
        y = top + 13 + 17 * place
        look = 'stroke-width="1" opacity=".5"' if line.faint else 'stroke-width="3"'
        ink = f"var(--c{line.colour % 8})"
        entries.append(
            f'<line x1="{left + 8}" x2="{left + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{ink}" {look}/>'
            f'<text x="{left + 30}" y="{y}">{escape(line.name)}</text>'
            f'<text x="{left + _LEGEND - 8}" y="{y}" text-anchor="end">{line.points[-1][1]:.3g}</text>'
        )
    size = f'width="{_LEGEND}" height="{17 * len(lines) + 6}"'
    ground = f'<rect x="{left}" y="{top}" {size} rx="5" fill="var(--card)" opacity=".85"/>'
    return ground + "".join(entries)


def _ticks(low: float, high: float, inside: bool = False) -> list[float]:
    """About five round numbers that span low..high, or that lie inside it."""
    if high <= low:
        low, high = (low - abs(low) * 0.5, high + abs(high) * 0.5) if low else (0.0, 1.0)
    raw = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * factor for factor in (1, 2, 2.5, 5, 10) if scale * factor >= raw * 0.999)
    least, most = (low / step, high / step)
    slack = 1e-9  # a bound that is a multiple of the step but for rounding is its own tick
    if inside:
        first, last = math.ceil(least - slack), math.floor(most + slack)
    else:
        first, last = math.floor(least + slack), math.ceil(most - slack)
    return [place * step for place in range(first, last + 1)]


def _written(value: float) -> str:
    """A tick as read aloud: 20k, 0.5, 2e-05."""
    if abs(value) >= 10000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2g}"
