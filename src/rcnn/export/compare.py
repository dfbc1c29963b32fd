"""Compares two sets of detections of the same images by matching them: rows with nearly equal scores can swap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rcnn.ops.boxes import box_iou
from rcnn.structures import Detections

EDGE = 1e-3  # a detection with a score this close to the lowest may be in one set only, because of the limit per image


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The largest differences of matched detections."""

    boxes: float = 0.0  # pixels
    scores: float = 0.0
    masks: float | None = None  # None: no masks
    keypoints: float | None = None  # pixels; None: no keypoints
    matched: int = 0
    unmatched: int = 0  # without a match; if others match, except those with the lowest scores

    @property
    def is_empty(self) -> bool:
        """Whether there were no detections to compare."""
        return not self.matched and not self.unmatched

    def text(self) -> str:
        """The differences in words."""
        parts = [f"boxes {self.boxes:.1e} px", f"scores {self.scores:.1e}"]
        parts += [] if self.masks is None else [f"masks {self.masks:.1e}"]
        parts += [] if self.keypoints is None else [f"keypoints {self.keypoints:.1e} px"]
        return f"{self.matched} detections matched, {self.unmatched} not; largest differences: {', '.join(parts)}"


def compare(expected: Detections, found: Detections) -> Difference:
    """The differences of `found` from `expected`, image by image, after matching by label, box and score."""
    return joined([_image(_rows(expected, index), _rows(found, index)) for index in range(len(expected.valid))])


def joined(parts: Sequence[Difference]) -> Difference:
    """The differences of several images as one."""
    return Difference(
        boxes=max(part.boxes for part in parts),
        scores=max(part.scores for part in parts),
        masks=max((part.masks for part in parts if part.masks is not None), default=None),
        keypoints=max((part.keypoints for part in parts if part.keypoints is not None), default=None),
        matched=sum(part.matched for part in parts),
        unmatched=sum(part.unmatched for part in parts),
    )


def agreement(one: Detections, other: Detections) -> float:
    """The similarity of the detections of two files for the same images, 0 to 1 (1: equal).

    It is the mean over all detections, weighted by their scores, of the similarity to the most similar detection of
    the other file with the same label: IoU times the ratio of the scores, or 0 if there is none.
    """
    total = weight = 0.0
    for index in range(len(one.valid)):
        a, b = _rows(one, index), _rows(other, index)
        low = torch.minimum(a["scores"][:, None], b["scores"][None])
        high = torch.maximum(a["scores"][:, None], b["scores"][None]).clamp(min=1e-9)
        alike = box_iou(a["boxes"], b["boxes"]) * (low / high) * (a["labels"][:, None] == b["labels"][None])
        for scores, axis in ((a["scores"], 1), (b["scores"], 0)):
            weight += float(scores.sum())
            total += float((scores * alike.amax(axis)).sum()) if alike.numel() else 0.0
    return total / weight if weight else 1.0


def _rows(detections: Detections, index: int) -> dict[str, Tensor]:
    """The valid rows of one image."""
    valid = detections.valid[index]
    return {name: value[index][valid] for name, value in vars(detections).items() if isinstance(value, Tensor)}


def _image(expected: dict[str, Tensor], found: dict[str, Tensor]) -> Difference:
    pairs = _match(expected, found)
    rows, columns = pairs.unbind(1)
    differences = {
        name: float((expected[name][rows].float() - found[name][columns].float()).abs().max()) if len(pairs) else 0.0
        for name in ("boxes", "scores", "masks", "keypoints")
        if name in expected
    }
    missing = [
        part["scores"][~torch.isin(torch.arange(len(part["scores"])), used)]
        for part, used in ((expected, rows), (found, columns))
    ]
    if not len(pairs):  # not because of the limit per image, which drops only the lowest scores
        return Difference(unmatched=max(map(len, missing)))
    lowest = min(float(part["scores"].min()) for part in (expected, found))
    unmatched = max(int((scores > lowest + EDGE).sum()) for scores in missing)
    return Difference(**differences, matched=len(pairs), unmatched=unmatched)


def _match(expected: dict[str, Tensor], found: dict[str, Tensor]) -> Tensor:
    """Pairs (n, 2) int64 of an expected and a found row: the nearest with the same label, at most 1 px apart."""
    if not len(expected["scores"]) or not len(found["scores"]):
        return torch.zeros((0, 2), dtype=torch.int64)
    distance = (expected["boxes"][:, None] - found["boxes"][None]).abs().amax(-1)
    distance = distance + 100 * (expected["scores"][:, None] - found["scores"][None]).abs()
    distance[expected["labels"][:, None] != found["labels"][None]] = torch.inf
    pairs: list[tuple[int, int]] = []
    for row in range(len(distance)):
        column = int(distance[row].argmin())
        if float(distance[row, column]) <= 1:
            pairs.append((row, column))
            distance[:, column] = torch.inf
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)
