"""The course of a training run as a PNG, where matplotlib is installed (the `plot` extra); curves.py needs nothing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any


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
    names = list(dict.fromkeys(name for line in lines for name in line))
    for name in names:
        points = [(line["step"], line[name]) for line in lines if isinstance(line.get(name), int | float)]
        if name.endswith(("_AP", "_AP50")):
            precisions.plot(*zip(*points, strict=True), marker=".", label=name) if points else None
        elif points and name not in ("step", "seconds", "lr") and not name.startswith(("bbox_", "segm_", "keypoints_")):
            losses.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == "loss" else 1)
    for axes, title in ((losses, "loss"), (precisions, "average precision")):
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    return path
