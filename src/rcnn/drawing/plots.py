"""The course of a training run as a PNG, where matplotlib is installed (the `plot` extra); curves.py needs nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcnn.drawing.curves import PRECISIONS, Points, loss_parts, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plots_available() -> bool:
    """Whether matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def write_plot(path: Path, lines: Sequence[dict[str, Any]]) -> Path:
    """Losses and average precisions over the steps of a log's `lines`, as a picture at `path`, which it gives back."""
    try:
        from matplotlib.figure import Figure  # not pyplot: it would look for a display and keep the figure
    except ImportError as error:
        raise ImportError(f"{path} is drawn by matplotlib, which is not installed: pip install 'rcnn[plot]'") from error

    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, precisions = figure.subplots(1, 2)
    for name in ("loss", *loss_parts(lines)):
        _plot(losses, series(lines, name), label=name, linewidth=2 if name == "loss" else 1)
    for name, title in PRECISIONS.items():
        _plot(precisions, series(lines, name), label=title, marker=".")
    for axes, title in ((losses, "loss"), (precisions, "average precision")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return path


def _plot(axes: Axes, points: Points, **look: Any) -> None:
    if points:
        axes.plot(*zip(*points, strict=True), **look)
