"""The score thresholds with the best F1, from detections that were matched with the ground truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A score threshold, with the precision and recall of the detections above it at IoU .50."""

    score: float
    precision: float
    recall: float
    f1: float  # harmonic mean of precision and recall


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """The best threshold of all classes together, and of each."""

    overall: Threshold | None  # None: no detection is correct
    per_class: dict[str, Threshold | None]

    def scores(self) -> dict[str, float]:
        """The threshold of each class, for `Predictor.predict(score=)`; the overall one for a class without its own.

        Empty if no detection is correct.
        """
        if self.overall is None:
            return {}
        return {name: (found or self.overall).score for name, found in self.per_class.items()}

    @property
    def within_0_to_1(self) -> bool:
        """Whether all scores are from 0 to 1, like those of a model, so that a prediction can use them."""
        found = (self.overall, *self.per_class.values())
        return all(0 <= one.score <= 1 for one in found if one is not None)

    def to_dict(self) -> dict[str, Any]:
        """The content of thresholds.json."""
        return {
            "overall": None if self.overall is None else vars(self.overall),
            "per_class": {name: None if found is None else vars(found) for name, found in self.per_class.items()},
        }


def best_threshold(scores: npt.NDArray[np.float64], hits: npt.NDArray[np.bool_], positives: int) -> Threshold | None:
    """The threshold with the highest F1 for D detections; None if no detection is correct.

    `scores` (D,); `hits` (D,): whether a detection matches an object; `positives`: the number of objects. The threshold
    is halfway between the lowest score that is kept and the next one. If several thresholds have the same F1, the
    highest one is returned.
    """
    order = np.argsort(-scores, kind="stable")
    scores, found = scores[order], hits[order].cumsum()
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # detections with equal scores are kept together
    if not positives or not len(last) or not found[-1]:
        return None
    f1 = 2 * found[last] / (last + 1 + positives)
    best = int(f1.argmax())
    lowest = scores[last[best]]
    following = scores[last[best] + 1] if best + 1 < len(last) else lowest
    return Threshold(
        score=float((lowest + following) / 2),
        precision=float(found[last[best]] / (last[best] + 1)),
        recall=float(found[last[best]] / positives),
        f1=float(f1[best]),
    )


def best_thresholds(
    scores: npt.NDArray[np.float64],
    hits: npt.NDArray[np.bool_],
    labels: npt.NDArray[np.int64],
    positives: Mapping[int, int],
    names: Mapping[int, str],
) -> Thresholds:
    """The best thresholds of D detections of the classes `labels` (D,); `positives` and `names` by class."""
    per_class = {
        name: best_threshold(scores[labels == label], hits[labels == label], positives.get(label, 0))
        for label, name in names.items()
    }
    return Thresholds(overall=best_threshold(scores, hits, sum(positives.values())), per_class=per_class)
