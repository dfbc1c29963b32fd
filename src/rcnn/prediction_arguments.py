"""The values of arguments of predictions, e.g. lowest scores, checked with one message each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from rcnn.arguments import is_one_of, real_number, require_max_pixels, shown, whole_number
from rcnn.data.image_inputs import require_channels

Score: TypeAlias = float | Mapping[str, float]  # the lowest score that is kept: of all classes, or by class name


def require_score(score: float) -> float:
    """`score` as a number of Python; a ValueError unless it is a number from 0 to 1."""
    return real_number("score", score, "a number from 0 to 1", 0, 1)


def checked_tolerance(tolerance: float) -> float:
    """`tolerance` of polygons as a number of Python; a ValueError unless it is 0 or more."""
    return real_number("tolerance", tolerance, "a number of pixels, 0 or more", 0)


def lowest_score(score: Score, classes: Sequence[str]) -> float:
    """The lowest score that is kept of any of the `classes` of the model; 0 if `score` names only some of them."""
    if not isinstance(score, Mapping):
        return float(score)
    return float(min((score.get(name, 0.0) for name in classes), default=0.0))


def check_arguments(
    score: Score,
    boxes: object | None,
    labels: object | None,
    channels: str,
    batch_size: int,
    max_pixels: float,
    errors: str,
) -> None:
    """Raise ValueError for arguments of `predict` that are out of range or contradict each other."""
    scores = score.values() if isinstance(score, Mapping) else (score,)
    for lowest in scores:
        require_score(lowest)
    if boxes is not None and any(scores):
        raise ValueError(f"score={score} would drop rows, but boxes= returns one row per box; leave score out")
    if labels is not None and boxes is None:
        raise ValueError("labels= are the classes of given boxes, but boxes= is missing; pass boxes=, too")
    if not is_one_of(errors, ("raise", "return")):
        raise ValueError(f"errors={shown(errors, 60)} is not known; expected 'raise' or 'return'")
    require_channels(channels)
    require_max_pixels(max_pixels)
    whole_number("batch_size", batch_size, "1 or more")
