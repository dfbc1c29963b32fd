"""Charts of a training run, drawn with matplotlib from the lines of its log: losses, average precision, learning rate.

A training line is `{"step": 20, "loss": .., "rpn_objectness": .., "lr": ..}`, where the other numbers are parts of the
loss; an evaluation line is `{"step": 499, "bbox_AP": .., "segm_AP50": ..}`. The import of matplotlib takes 0.8 s, so
only the functions that draw import it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.drawing.pages import render
from rcnn.drawing.palette import CHART_COLOURS, GRID, INK, SOFT, css_colours

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LogLine = Mapping[str, Any]
Points = list[tuple[float, float]]  # step, value
Schedule = Callable[[int], float]  # step -> learning rate

_MAX_POINTS = 1500  # per curve; more are not visible at this width
DIAGNOSTICS = "diagnostics/"  # prefix of the fields with diagnostics of the parts of a detector
_ACCURACIES = ("rpn_precision_50", "rpn_recall_50", "class_accuracy", "class_accuracy_positive", "mask_accuracy")
_NO_LOSSES = ("step", "seconds", "loss", "lr")  # fields of a training line that are not parts of the loss
_PRECISIONS = {  # field of an evaluation line -> name in the chart
    f"{kind}_{name}": f"{title} {name}"
    for kind, title in (("bbox", "box"), ("segm", "mask"), ("keypoints", "keypoint"))
    for name in ("AP", "AP50")
}
# Inches. Fixed margins: matplotlib's layout engines draw each chart twice, and measure all its texts before that.
_WIDTH, _PLOT = 5.2, 2.3  # of a chart; height of its axes
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.72, 0.12, 0.32, 0.48  # around the axes: texts of ticks, title, text below
_LABEL = 0.25  # from the axes to the text below
_LEGEND, _LEGEND_ROW = 0.12, 0.168
_LONG_NAME = 32  # characters: two of them do not fit beside each other below a chart
_DASHES = ("-", "--", ":", "-.")  # the next one is used when all colours are used up


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    points: Points
    style: int  # index of the colour and dashes
    faint: bool = False  # thin and transparent: measured values behind their smoothed curve
    dots: bool = False  # mark every point

    def title(self) -> str:
        """Its name, with its last value unless it is faint."""
        return self.name if self.faint else f"{self.name}  {self.points[-1][1]:.3g}"


@dataclass(frozen=True)
class Chart:
    """One pair of axes: values over training steps."""

    title: str
    curves: tuple[Curve, ...]
    steps: tuple[float, float]  # first and last step of the log: the same axis for all charts
    from_zero: bool = True  # the value axis starts at 0

    def legend(self) -> list[str]:
        """The name of each curve with its last value; nothing for one curve, which the title names."""
        return [curve.title() for curve in self.curves] if len(self.curves) > 1 else []

    def describe(self) -> str:
        """A description of the chart for screen readers."""
        ends = ", ".join(f"{c.name} {c.points[-1][1]:.3g}" for c in self.curves if not c.faint)
        return f"{self.title} over training steps; at the end: {ends}"


def training_charts(lines: Sequence[LogLine], schedule: Schedule | None = None) -> list[Chart]:
    """The charts for which a log has values: loss, its parts, average precision, diagnostics, learning rate.

    `schedule`: the learning rate of each step, for the steps between those in the log.
    """
    charts: list[Chart] = []
    steps = [float(line["step"]) for line in lines]
    span = (min(steps), max(steps)) if steps else (0.0, 0.0)
    if total := series(lines, "loss"):
        measured, smooth = Curve("as logged", total, 0, faint=True), Curve("smoothed", _smoothed(total), 0)
        charts.append(Chart("Loss", (measured, smooth), span, from_zero=False))
    parts = [(name, _smoothed(series(lines, name))) for name in loss_parts(lines)]
    if curves := [Curve(name, points, style) for style, (name, points) in enumerate(parts) if points]:
        charts.append(Chart("Parts of the loss, smoothed", tuple(curves), span))
    precisions = [(title, series(lines, field)) for field, title in _PRECISIONS.items()]
    if curves := [Curve(title, points, i, dots=True) for i, (title, points) in enumerate(precisions) if points]:
        charts.append(Chart("Average precision", tuple(curves), span))
    accuracies = [(name.replace("_", " "), _smoothed(series(lines, DIAGNOSTICS + name))) for name in _ACCURACIES]
    if curves := [Curve(title, points, style) for style, (title, points) in enumerate(accuracies) if points]:
        charts.append(Chart("Diagnostics of training batches, smoothed", tuple(curves), span))
    if rates := _every_step(series(lines, "lr"), schedule):
        charts.append(Chart("Learning rate", (Curve("learning rate", rates, 2),), span))
    return charts


def _every_step(logged: Points, schedule: Schedule | None) -> Points:
    """The learning rate of every step; before a resume that changed the schedule, only of the logged steps."""
    if schedule is None:
        return logged
    changed = [index for index, (step, rate) in enumerate(logged) if not math.isclose(rate, schedule(int(step)))]
    first = changed[-1] + 1 if changed else 0
    steps = range(int(logged[first][0]), int(logged[-1][0]) + 1) if first < len(logged) else range(0)
    return logged[:first] + [(float(step), schedule(step)) for step in steps]


def loss_parts(lines: Sequence[LogLine]) -> list[str]:
    """The fields that are parts of the loss, in order of appearance."""
    fields = dict.fromkeys(name for line in lines if "loss" in line for name in line)
    return [name for name in fields if name not in _NO_LOSSES and not name.startswith(DIAGNOSTICS)]


def series(lines: Sequence[LogLine], name: str) -> Points:
    """(step, value) of one field, for the lines where it is a finite number."""
    found = ((line["step"], line.get(name)) for line in lines)
    return [(float(s), float(v)) for s, v in found if isinstance(v, int | float) and math.isfinite(v)]


def chart_svg(chart: Chart) -> str:
    """A chart as an `<svg>` element for a page. Its text and lines use the colours of the page's CSS."""
    return page_svg(lambda axes: _draw(axes, chart), chart.describe(), chart.legend())


def training_svgs(lines: Sequence[LogLine], schedule: Schedule | None = None) -> list[str]:
    """The charts of a log as `<svg>` elements; `schedule` as in `training_charts`."""
    return [chart_svg(chart) for chart in training_charts(lines, schedule)]


def load_matplotlib() -> None:
    """Import the modules that `page_svg` needs. It can be called in a background thread."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401


def page_svg(draw: Callable[[Axes], None], description: str, legend: Sequence[str] = ()) -> str:
    """The drawing of `draw` on a pair of axes, as an `<svg>` element for a page. `description`: for screen readers.

    `legend`: the names of the lines that `draw` draws, in order.
    """
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9.5}):
        figure, [axes] = _figure(1, 1, [legend])
        draw(axes)
        _finish(axes, legend)
        file = io.StringIO()
        nothing: dict[str, str | None] = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    return _for_page(file.getvalue(), description)


def _figure(rows: int, columns: int, legends: Sequence[Sequence[str]]) -> tuple[Figure, list[Axes]]:
    """A figure with axes for each of `legends`, row by row; all have room for the longest legend below them."""
    from matplotlib.figure import Figure  # not pyplot, which would look for a display and keep the figure

    below = _BOTTOM + max(
        (_LEGEND + _LEGEND_ROW * math.ceil(len(one) / _columns(one)) for one in legends if one), default=0
    )
    width, height = _WIDTH * columns, (_TOP + _PLOT + below) * rows
    figure = Figure(figsize=(width, height))
    size = ((_WIDTH - _LEFT - _RIGHT) / width, _PLOT / height)
    places = [divmod(number, columns) for number in range(len(legends))]
    corners = [((_WIDTH * column + _LEFT) / width, 1 - (row + 1) / rows + below / height) for row, column in places]
    return figure, [figure.add_axes((*corner, *size)) for corner in corners]


def _columns(legend: Sequence[str]) -> int:
    return 2 if max(map(len, legend)) <= _LONG_NAME else 1


def _finish(axes: Axes, names: Sequence[str]) -> None:
    """The text below `axes`, and below it the names of their lines, never over a curve."""
    axes.xaxis.set_label_coords(0.5, -_LABEL / _PLOT)
    if names:
        legend = axes.legend(
            axes.lines, names, loc="upper left", bbox_to_anchor=(0, -_BOTTOM / _PLOT), ncols=_columns(names),
            fontsize=8, labelcolor=SOFT, frameon=False,
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)


def curve_page(lines: Sequence[LogLine], charts: Sequence[str], title: str = "Training") -> str:
    """An HTML page with the `charts` of a log, from `training_svgs`."""
    lead = (
        f"{len(lines)} lines in the log, up to step {lines[-1]['step']} (counted from 0)."
        if lines
        else "The log is empty."
    )
    return render("curve.html", title=title, lead=lead, charts=charts)


def write_plot(path: Path, lines: Sequence[LogLine], schedule: Schedule | None = None) -> Path:
    """Write the charts of a log as one picture (PNG, PDF or SVG, by the suffix of `path`), and return its path.

    `schedule` as in `training_charts`.
    """
    charts = training_charts(lines, schedule)
    columns = max(1, min(2, len(charts)))
    rows = max(1, math.ceil(len(charts) / columns))
    figure, all_axes = _figure(rows, columns, [chart.legend() for chart in charts])
    for axes, chart in zip(all_axes, charts, strict=True):
        _draw(axes, chart)
        _finish(axes, chart.legend())
    figure.savefig(path, dpi=120)
    return path


def _smoothed(points: Points) -> Points:
    """The exponential moving average over about a twentieth of the points, with bias correction."""
    keep = 1 - 1 / max(2.0, len(points) / 20)
    mean, weight = 0.0, 0.0
    smooth: Points = []
    for step, value in points:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append((step, mean / weight))
    return smooth


def _draw(axes: Axes, chart: Chart) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for curve in chart.curves:
        step = max(1, math.ceil(len(curve.points) / _MAX_POINTS))
        kept = curve.points[:-1:step] + curve.points[-1:]
        marker = "o" if curve.dots or len(kept) == 1 else ""
        rounds, colour = divmod(curve.style, len(CHART_COLOURS))
        axes.plot(
            *zip(*kept, strict=True),
            label=curve.title(),
            color=CHART_COLOURS[colour],
            linestyle=_DASHES[rounds % len(_DASHES)],
            linewidth=0.8 if curve.faint else 1.8,
            alpha=0.35 if curve.faint else 1,
            marker=marker,
            markersize=4.5,
            clip_on=False,
        )
    if chart.steps[1] > chart.steps[0]:
        axes.set_xlim(*chart.steps)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(_written))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.yaxis.set_major_formatter(FuncFormatter(_written))
    set_style(axes, chart.title, "step")
    if chart.from_zero and all(value >= 0 for curve in chart.curves for _, value in curve.points):
        axes.set_ylim(bottom=0)


def set_style(axes: Axes, title: str, below: str) -> None:
    """Set the title, the text below the axes, and the common style of all charts."""
    # with y, and the label's place in _finish: matplotlib would measure the texts of all ticks to find them
    axes.set_title(title, loc="left", y=1.0, color=INK, fontweight="bold", fontsize=10)
    axes.set_xlabel(below, color=SOFT)
    axes.tick_params(length=0, labelcolor=SOFT, bottom=False, left=False)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def _for_page(svg: str, description: str) -> str:
    """matplotlib's SVG file as an element without declarations, ids, references or URLs, with the page's colours.

    With several charts in a page, ids would not be unique; a reference (to the shape of a marker) looks like a link.
    """
    shapes = dict(re.findall(r'<path id="(\w+)" d="([^"]*)"', svg))
    svg = svg[svg.index("<svg") :]
    svg = re.sub(
        r'<use xlink:href="#(\w+)" x="([^"]+)" y="([^"]+)"',
        lambda use: f'<path d="{shapes[use[1]]}" transform="translate({use[2]} {use[3]})"',
        svg,
    )
    svg = re.sub(r"<defs>.*?</defs>", "", svg, flags=re.DOTALL)
    unwanted = r' (?:id|clip-path|xmlns|xmlns:xlink)="[^"]*"|<!--.*?-->|font-family: [^;"]*; '
    svg = re.sub(unwanted, "", svg, flags=re.DOTALL)
    for colour, variable in css_colours().items():
        svg = svg.replace(colour, f"var({variable})")
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{_attribute(description)}"', 1).strip()


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")


def _written(value: float, position: int | None = None) -> str:
    """The label of a tick, e.g. 1.5k, 20k, 0.5, 2e-05."""
    if abs(value) >= 1000:
        return f"{value / 1000:g}k"
    return f"{value:.6g}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2g}"
