"""Names of the models: each model is called like the function that returns its config."""

from __future__ import annotations

from collections.abc import Callable

from rcnn.models.config import DetectorConfig

Models = dict[str, Callable[[], DetectorConfig]]


def named(*functions: Callable[[], DetectorConfig]) -> Models:
    """The functions by their names."""
    return {function.__name__: function for function in functions}
