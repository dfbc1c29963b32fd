"""`rcnn::decode_keypoints` as ONNX operators.

Letters: B images, D detections, N = B * D, J keypoints, m the side of a map, S pixels of a box's side.
"""

from __future__ import annotations

from onnxscript import FLOAT, script
from onnxscript import opset18 as op
from onnxscript.values import Opset


@script(Opset("rcnn", 1))
def decode_keypoints(maps: FLOAT, boxes: FLOAT) -> FLOAT:
    """x, y, logit and score (B, D, J, 4) of the maximum of each map (B, D, J, m, m); see `rcnn.ops.keypoints`.

    The maps of one box at a time are resized as a whole, by two matrix products with the weights of Keys' bicubic
    kernel (-0.75).
    """
    first, one, two = op.Constant(value_ints=[0]), op.Constant(value_ints=[1]), op.Constant(value_ints=[2])
    minus, four = op.Constant(value_ints=[-1]), op.Constant(value_ints=[4])
    zero, unit = op.Constant(value_float=0.0), op.Constant(value_float=1.0)
    taps = op.Constant(value_floats=[-1.0, 0.0, 1.0, 2.0])
    joints, side = op.Shape(maps, start=2, end=3), op.Shape(maps, start=4, end=5)
    size = op.Squeeze(op.Cast(side, to=1))
    samples = op.Range(zero, size, unit)  # (m,)
    flat = op.Reshape(op.Cast(maps, to=1), op.Concat(minus, joints, side, side, axis=0))  # (N, J, m, m)
    corners = op.Reshape(op.Cast(boxes, to=1), op.Constant(value_ints=[-1, 4]))
    start = op.Slice(corners, first, two, one)  # (N, 2) x, y
    sides = op.Max(op.Slice(corners, two, four, one) - start, unit)  # (N, 2) width, height
    whole = op.Ceil(sides)
    number = op.Shape(corners, start=0, end=1)
    found = op.Expand(zero, op.Concat(number, joints, four, axis=0))
    for i in range(op.Squeeze(number)):
        pixels = op.Gather(whole, i, axis=0)  # (2,)
        at = op.Range(zero, op.ReduceMax(pixels, keepdims=0), unit)  # (S,), S of the longer side
        at = (at + 0.5) * op.Unsqueeze(size / pixels, one) - 0.5  # (2, S), in samples
        low = op.Floor(at)
        distance = op.Abs(op.Unsqueeze(at - low, two) - taps)  # (2, S, 4)
        near = ((1.25 * distance - 2.25) * distance) * distance + 1.0
        far = ((-0.75 * distance + 3.75) * distance - 6.0) * distance + 3.0
        weights = op.Where(distance <= 1.0, near, far)
        sample = op.Clip(op.Unsqueeze(low, two) + taps, zero, size - 1.0)
        hit = op.Equal(op.Unsqueeze(sample, op.Constant(value_ints=[3])), samples)  # (2, S, 4, m)
        spread = op.ReduceSum(op.Unsqueeze(weights, op.Constant(value_ints=[3])) * op.Cast(hit, to=1), two, keepdims=0)
        width, height = op.Split(pixels, num_outputs=2)  # (1,) each
        across = op.Slice(op.Gather(spread, op.Constant(value_int=0), axis=0), first, op.Cast(width, to=7), first)
        down = op.Slice(op.Gather(spread, op.Constant(value_int=1), axis=0), first, op.Cast(height, to=7), first)
        map_ = op.Gather(flat, i, axis=0)  # (J, m, m)
        values = op.MatMul(op.MatMul(down, map_), op.Transpose(across, perm=[1, 0]))  # (J, h, w)
        row = op.Reshape(values, op.Concat(joints, minus, axis=0))  # (J, h * w)
        logit = op.ReduceMax(row, one, keepdims=1)  # (J, 1)
        pixel = op.ArgMax(row, axis=1, keepdims=1)  # (J, 1), the first by row
        columns = op.Cast(width, to=7)
        place = op.Concat(pixel - (pixel / columns) * columns, pixel / columns, axis=1)  # (J, 2) x, y
        place = (op.Cast(place, to=1) + 0.5) * (op.Gather(sides, i, axis=0) / pixels) + op.Gather(start, i, axis=0)
        total = op.ReduceLogSumExp(op.Reshape(map_, op.Concat(joints, minus, axis=0)), one, keepdims=1)
        score = op.Exp(logit - total)
        score = op.Where(op.Or(op.IsNaN(score), op.IsInf(score)), zero, score)
        points = op.Unsqueeze(op.Concat(place, logit, score, axis=1), first)  # (1, J, 4)
        found = op.ScatterND(found, op.Reshape(i, op.Constant(value_ints=[1, 1])), points)
    return op.Reshape(found, op.Concat(op.Shape(maps, start=0, end=3), four, axis=0))
