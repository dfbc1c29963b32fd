"""`rcnn::nms` and `rcnn::soft_nms` as ONNX operators.

Letters: B images, N boxes, G groups, D boxes that are kept, n candidates: the valid boxes of the image with the most of
them, but at least D.
"""

from __future__ import annotations

from typing import NamedTuple

from onnxscript import BOOL, FLOAT, INT64, script
from onnxscript import opset18 as op
from onnxscript.values import Opset

from rcnn.export.operators.build import (
    Value,
    as_float,
    as_integer,
    count_up,
    dimension,
    full,
    integers,
    number,
)

LOWEST = -3.0e38  # below every score


class Candidates(NamedTuple):
    """The valid boxes of each image, best first."""

    boxes: Value  # (B, n, 4) float32
    groups: Value  # (B, n) int64
    scores: Value  # (B, n) float32; LOWEST: not a candidate
    order: Value  # (B, n) int64, their places in N


def nms(
    boxes: Value, scores: Value, groups: Value, valid: Value, iou_threshold: float, keep: int
) -> tuple[Value, Value]:
    """Index (B, D) int64 and valid (B, D) bool of the boxes that are kept; see `rcnn.ops.nms`.

    NonMaxSuppression has one score per class and box; here a class is a group, and the score is the rank among the
    candidates, so equal scores and scores of any sign are handled as in the op.
    """
    candidates = best_first(boxes, scores, groups, valid, keep)
    count = dimension(candidates.scores, 1)  # (1,)
    rank = as_float(op.Sub(count, count_up(count)))  # (n,): n, n - 1, ..., 1
    real = op.Greater(candidates.scores, number(LOWEST))
    number_of_groups = op.Add(op.ReduceMax(op.Reshape(groups, integers(-1)), keepdims=1), integers(1))
    own = op.Equal(
        op.Unsqueeze(candidates.groups, integers(1)), op.Unsqueeze(count_up(number_of_groups), integers(0, 2))
    )  # (B, G, n)
    table = op.Where(op.And(own, op.Unsqueeze(real, integers(1))), rank, number(0.0))
    selected = op.NonMaxSuppression(
        candidates.boxes, table, integers(keep), number(iou_threshold), number(0.0)
    )  # (M, 3): image, group, candidate
    places = op.Gather(selected, integers(0, 2), axis=1)
    kept_rank = op.Gather(rank, op.Gather(selected, integers(2), axis=1), axis=0)  # (M, 1)
    ranks = op.ScatterND(
        full([dimension(boxes, 0), count], 0.0), places, op.Squeeze(kept_rank, integers(1))
    )  # (B, n), 0: not kept
    best, at = op.TopK(ranks, integers(keep), axis=1)
    return op.Where(
        op.Greater(best, number(0.0)), op.GatherElements(candidates.order, at, axis=1), integers(0)
    ), op.Greater(best, number(0.0))


def sort_stable(values: Value, stable: bool, dim: int = -1, descending: bool = False) -> tuple[Value, Value]:
    """Values and indices of `torch.sort(stable=True)`: TopK gives equal values in the order of their indices."""
    axis = op.Shape(values, start=dim, end=None if dim == -1 else dim + 1)
    return op.TopK(values, axis, axis=dim, largest=int(descending), sorted=1)


def best_first(boxes: Value, scores: Value, groups: Value, valid: Value, least: int) -> Candidates:
    """The valid boxes sorted by score, of equal scores the lower index first; at least `least`, padded."""
    key = op.Where(valid, as_float(scores), number(LOWEST))
    key = op.Pad(key, integers(0, 0, 0, least), number(LOWEST))
    boxes = op.Pad(as_float(boxes), integers(0, 0, 0, 0, least, 0), number(0.0))
    groups = op.Pad(groups, integers(0, 0, 0, least))
    count = op.ReduceMax(op.ReduceSum(as_integer(valid), integers(1), keepdims=0), keepdims=1)  # (1,)
    count = op.Max(op.Reshape(count, integers(1)), integers(least))
    best, order = op.TopK(key, count, axis=1)
    rows = op.Expand(op.Unsqueeze(order, integers(2)), integers(1, 1, 4))
    return Candidates(
        boxes=op.GatherElements(boxes, rows, axis=1),
        groups=op.GatherElements(groups, order, axis=1),
        scores=best,
        order=order,
    )


@script(Opset("rcnn", 1))
def soft_nms(
    boxes: FLOAT,
    scores: FLOAT,
    groups: INT64,
    valid: BOOL,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    keep: int,
) -> tuple[INT64, FLOAT, BOOL]:
    """Index (B, D) int64, scores (B, D) float32 and valid (B, D) bool; see `rcnn.ops.soft_nms`.

    Each of D steps selects the best box of all groups and reduces the scores of those of its own group. Reduced scores
    are never above that of the box selected, so the order is that of the final scores.
    """
    gone = op.Constant(value_float=-1.0)
    zero = op.Constant(value_float=0.0)
    one = op.Constant(value_float=1.0)
    left = op.Where(valid, op.Cast(scores, to=1), gone)  # (B, N) remaining scores
    corners = op.Cast(boxes, to=1)
    x1, y1, x2, y2 = op.Split(corners, axis=2, num_outputs=4)  # (B, N, 1) each
    area = (x2 - x1) * (y2 - y1)
    steps = op.Constant(value_int=keep)
    batch = op.Shape(scores, start=0, end=1)
    shape = op.Concat(batch, op.Reshape(steps, op.Constant(value_ints=[1])), axis=0)
    index = op.Expand(op.Constant(value_int=0), shape)
    reduced = op.Expand(gone, shape)
    columns = op.Range(op.Constant(value_int=0), steps, op.Constant(value_int=1))
    for step in range(keep):
        left = op.Where(left < min_score, gone, left)
        score = op.ReduceMax(left, op.Constant(value_ints=[1]), keepdims=1)  # (B, 1)
        best = op.ArgMax(left, axis=1, keepdims=1)  # (B, 1)
        here = columns == step
        index = op.Where(here, best, index)
        reduced = op.Where(here, score, reduced)
        row = op.Expand(op.Unsqueeze(best, op.Constant(value_ints=[2])), op.Constant(value_ints=[1, 1, 4]))
        chosen = op.GatherElements(corners, row, axis=1)  # (B, 1, 4)
        a1, b1, a2, b2 = op.Split(chosen, axis=2, num_outputs=4)
        width = op.Max(op.Min(x2, a2) - op.Max(x1, a1), zero)
        height = op.Max(op.Min(y2, b2) - op.Max(y1, b1), zero)
        shared = width * height
        union = area + (a2 - a1) * (b2 - b1) - shared
        iou = op.Squeeze(shared / op.Max(union, op.Constant(value_float=1e-37)), op.Constant(value_ints=[2]))
        if sigma > 0.0:  # noqa: SIM108  (the ONNX graph gets an If)
            factor = op.Exp(op.Neg(iou * iou / sigma))
        else:
            factor = op.Where(iou > iou_threshold, one - iou, one)
        same = op.And(op.Equal(groups, op.GatherElements(groups, best, axis=1)), left >= zero)
        left = op.Where(op.And(same, score >= zero), left * factor, left)
        left = op.ScatterElements(left, best, op.Expand(gone, op.Shape(best)), axis=1)
    kept = reduced >= zero
    return op.Where(kept, index, op.Constant(value_int=0)), op.Where(kept, reduced, zero), kept
