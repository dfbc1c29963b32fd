"""Names of the models: those of their functions."""

from __future__ import annotations

from collections.abc import Callable

from rcnn.models.config import DetectorConfig

Models = dict[str, Callable[[], DetectorConfig]]


def named(*functions: Callable[[], DetectorConfig]) -> Models:
    """Each function under its own name."""
    return {function.__name__: function for function in functions}
