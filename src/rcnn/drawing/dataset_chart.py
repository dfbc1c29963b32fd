"""The picture of `rcnn data info`: objects per class, sizes of objects, sizes of images."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from rcnn.data.inspect.info import MEDIUM, SMALL, DatasetInfo
from rcnn.data.messages import cut
from rcnn.drawing.charts import set_style
from rcnn.drawing.palette import CHART_COLOURS, INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CLASSES = 40  # with bars; the rest are counted in a note
MAX_DOTS = 3000  # images drawn per split


def dataset_svg(info: DatasetInfo) -> str:
    """The picture as the content of an SVG file, with text as text, and without fonts and links."""
    import matplotlib as mpl
    from matplotlib.figure import Figure  # not pyplot, which would look for a display and keep the figure

    shown = min(len(info.classes), MAX_CLASSES)
    with mpl.rc_context(
        {"svg.fonttype": "none", "font.size": 9.5, "font.family": "sans-serif", "svg.hashsalt": "rcnn"}
    ):
        figure = Figure(figsize=(12, max(4.0, 1.6 + 0.2 * shown * max(1, len(info.splits) / 2))), layout="constrained")
        grid = figure.add_gridspec(2, 2)
        _draw_classes(figure.add_subplot(grid[:, 0]), info)
        _draw_objects(figure.add_subplot(grid[0, 1]), info)
        _draw_images(figure.add_subplot(grid[1, 1]), info)
        title = info.root.resolve().name
        figure.suptitle(title, x=0.01, ha="left", color=INK, fontweight="bold", parse_math=False)
        file = io.StringIO()
        nothing: dict[str, str | None] = {"Date": None, "Creator": None, "Format": None, "Type": None}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # the viewer's font draws the text
            figure.savefig(file, format="svg", metadata=nothing)
    return file.getvalue()


def _draw_classes(axes: Axes, info: DatasetInfo) -> None:
    """Bars: objects per class and split, with the most frequent class at the top."""
    total = np.sum([one.objects for one in info.splits], axis=0)
    order = np.argsort(-total, kind="stable")[:MAX_CLASSES]
    height = 0.8 / len(info.splits)
    for number, one in enumerate(info.splits):
        positions = np.arange(len(order)) + (number - (len(info.splits) - 1) / 2) * height
        axes.barh(positions, one.objects[order], height, label=one.name, color=_colour(number))
    shown = [cut(info.classes[label], 24) for label in order.tolist()]
    axes.set_yticks(range(len(order)), shown, parse_math=False)
    axes.set_ylim(max(len(order), 4) - 0.4, -0.6)
    if total.max(initial=1) > 100 * total[total > 0].min(initial=total.max(initial=1)):
        axes.set_xscale("symlog", linthresh=1)
    hidden = len(total) - len(order)
    _finish(axes, "Objects per class" + (f" (the {MAX_CLASSES} most frequent of {len(total)})" if hidden else ""), "")


def _draw_objects(axes: Axes, info: DatasetInfo) -> None:
    """Histogram of the square roots of the objects' areas."""
    sides = [np.maximum(1, np.sqrt(one.areas)) for one in info.splits]
    highest = max((float(one.max(initial=2)) for one in sides), default=2)
    bins = np.geomspace(1, highest, 40)
    for number, (one, values) in enumerate(zip(info.splits, sides, strict=True)):
        axes.hist(values, bins=bins.tolist(), label=one.name, color=_colour(number), alpha=0.65)
    for limit in (SMALL, MEDIUM):
        axes.axvline(limit**0.5, color=SOFT, linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda value, position: f"{value:g}")
    _finish(axes, "Objects by size", "square root of the area, pixels; dotted: COCO's small, medium and large")


def _draw_images(axes: Axes, info: DatasetInfo) -> None:
    """Dots: width and height of the images."""
    for number, one in enumerate(info.splits):
        sizes = one.image_sizes[:: max(1, len(one.image_sizes) // MAX_DOTS)]
        axes.scatter(sizes[:, 1], sizes[:, 0], s=14, label=one.name, color=_colour(number), alpha=0.5, linewidths=0)
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("height", color=SOFT)
    _finish(axes, "Images by size", "width, pixels")


def _finish(axes: Axes, title: str, below: str) -> None:
    set_style(axes, title, below)
    legend = axes.legend(fontsize=8, labelcolor=SOFT, framealpha=0.6, loc="best")
    for text in legend.get_texts():
        text.set_parse_math(False)


def _colour(number: int) -> str:
    return CHART_COLOURS[number % len(CHART_COLOURS)]
