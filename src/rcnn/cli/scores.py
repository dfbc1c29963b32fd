"""`rcnn predict --score` and `--classes`: the filter of the detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rcnn.models.config import DetectorConfig
    from rcnn.results import ImageDetections

DEFAULT_SCORE = 0.5
_EXPECTED = "expected a number from 0 to 1, NAME=NUMBER,..., best, or the thresholds.json of an evaluation"


@dataclass(frozen=True, kw_only=True)
class Filter:
    """A filter of detections by score (for all classes, or for each) and by class."""

    score: float | Mapping[str, float] = DEFAULT_SCORE
    classes: tuple[str, ...] = ()  # empty: all

    @property
    def lowest(self) -> float:
        """The lowest score of any class."""
        return min(self.score.values(), default=0.0) if isinstance(self.score, Mapping) else self.score

    def of(self, name: str) -> float:
        """The lowest score of a class; infinity for a class that is not kept."""
        if self.classes and name not in self.classes:
            return float("inf")
        return self.score.get(name, 0.0) if isinstance(self.score, Mapping) else self.score

    def apply(self, found: ImageDetections) -> ImageDetections:
        """The detections that are kept."""
        return (found.of_classes(self.classes) if self.classes else found).above(self.score)


def chosen_filter(
    score: str | None, classes: str, checkpoint: Path, known: Sequence[str], default: float = DEFAULT_SCORE
) -> Filter:
    """The filter of the options, for a model with the classes `known`.

    Raises ValueError for a class that the model does not have, or a score in none of the accepted forms.
    """
    from rcnn.results import require_classes

    names = tuple(name.strip() for name in classes.split(",")) if classes else ()
    require_classes(names, known)
    return Filter(score=default if score is None else _scores(score, checkpoint, known, default), classes=names)


def warn_of_dropped_scores(config: DetectorConfig, keep: Filter, *, is_fixed: bool) -> None:
    """Print a warning if the model itself drops detections that --score would keep.

    `is_fixed`: the model is an exported file, which takes no settings.
    """
    key, lowest = lowest_score(config)
    score = keep.lowest
    if score < lowest:
        typer.echo(
            f"warning: the model drops detections with a score below {key}={lowest:g}, which is higher than --score "
            f"{score:g}; {'export it again with' if is_fixed else 'add'} {key}={score:g}",
            err=True,
        )


def lowest_score(config: DetectorConfig) -> tuple[str, float]:
    """The setting that drops detections with a lower score, and its value."""
    if config.proposals_only:
        return "rpn.proposals.score_threshold", config.rpn.proposals.score_threshold
    if config.fcis is not None:
        return "fcis.score_threshold", config.fcis.score_threshold
    return "box.score_threshold", config.box.score_threshold


def _scores(text: str, checkpoint: Path, known: Sequence[str], default: float) -> float | dict[str, float]:
    from rcnn.evaluation.folder import THRESHOLDS_FILE
    from rcnn.evaluation.thresholds import find_thresholds, read_thresholds
    from rcnn.results import require_classes

    if text == "best":
        return read_thresholds(find_thresholds(checkpoint), known)
    if "=" not in text and (text.endswith(".json") or Path(text).is_dir()):
        path = Path(text)
        return read_thresholds(path / THRESHOLDS_FILE if path.is_dir() else path, known)
    if "=" not in text:
        return _number(text, text)
    scores = dict[str, float]()
    for part in text.split(","):
        name, equals, value = part.rpartition("=")
        if not equals:  # a number alone is for all other classes
            default = _number(part, text)
            continue
        require_classes([name.strip()], known)
        if name.strip() in scores:
            raise ValueError(f"--score {text}: {name.strip()} has two scores; expected one per class")
        scores[name.strip()] = _number(value, text)
    return dict.fromkeys(known, default) | scores


def _number(text: str, option: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"--score {option}: {_EXPECTED}")
    return value
