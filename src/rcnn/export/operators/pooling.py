"""`rcnn::roi_align` and `rcnn::roi_pool` as ONNX operators.

Letters: B images, R regions, C channels, L levels, s the side of a pooled map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from onnxscript import opset18 as op

from rcnn.export.operators.build import Value, as_float, as_integer, count_up, dimension, full, integers

Pool = Callable[[Value, Value, Value, float], Value]  # map, boxes (n, 4), images (n,), scale -> (n, C, s, s)


def roi_align(
    features: Sequence[Value],
    boxes: Value,
    levels: Value,
    valid: Value,
    scales: Sequence[float],
    size: int,
    sampling_ratio: int,
    aligned: bool,
) -> Value:
    """Means of bilinear samples (B, R, C, s, s) of each region's own level; see `rcnn.ops.roi_align`."""

    def pool(values: Value, rows: Value, images: Value, scale: float) -> Value:
        return op.RoiAlign(
            as_float(values),
            rows,
            images,
            output_height=size,
            output_width=size,
            sampling_ratio=sampling_ratio,
            spatial_scale=scale,
            mode="avg",
            coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
        )

    return op.CastLike(_pool_levels(features, boxes, levels, valid, scales, size, pool), features[0])


def roi_pool(
    features: Sequence[Value], boxes: Value, levels: Value, valid: Value, scales: Sequence[float], size: int
) -> tuple[Value, Value]:
    """Maxima (B, R, C, s, s) of each region's own level, see `rcnn.ops.roi_pool`; the second result, argmax, is 0."""

    def pool(values: Value, rows: Value, images: Value, scale: float) -> Value:
        rois = op.Concat(as_float(op.Unsqueeze(images, integers(1))), rows, axis=1)
        return op.MaxRoiPool(as_float(values), rois, pooled_shape=[size, size], spatial_scale=scale)

    pooled = op.CastLike(_pool_levels(features, boxes, levels, valid, scales, size, pool), features[0])
    return pooled, op.Cast(op.Mul(pooled, op.CastLike(integers(0), pooled)), to=6)  # int32


def _pool_levels(
    features: Sequence[Value],
    boxes: Value,
    levels: Value,
    valid: Value,
    scales: Sequence[float],
    size: int,
    pool: Pool,
) -> Value:
    """`pool` of the valid regions, each from its own level, (B, R, C, s, s); zeros for the other regions."""
    batch, regions = dimension(boxes, 0), dimension(boxes, 1)
    total = op.Mul(batch, regions)  # (1,)
    rows = op.Reshape(as_float(boxes), integers(-1, 4))
    flat_levels, flat_valid = op.Reshape(levels, integers(-1)), op.Reshape(valid, integers(-1))
    places: list[Value] = []
    parts: list[Value] = []
    for level, (values, scale) in enumerate(zip(features, scales, strict=True)):
        own = op.And(flat_valid, op.Equal(flat_levels, integers(level)))
        place = op.Squeeze(op.NonZero(own), integers(0))  # (n,) into B * R
        parts.append(pool(values, op.Gather(rows, place, axis=0), op.Div(place, regions), scale))
        places.append(place)
    channels = dimension(features[0], 1)
    parts.append(full([integers(1), channels, integers(size, size)], 0.0))  # what the other regions get
    place = op.Concat(*places, axis=0) if len(places) > 1 else places[0]
    row_of = op.ScatterND(
        op.Expand(dimension(place, 0), total), op.Unsqueeze(place, integers(1)), count_up(dimension(place, 0))
    )  # (B * R,): the row of `parts` with its result
    pooled = op.Gather(op.Concat(*parts, axis=0), as_integer(row_of), axis=0)
    return op.Reshape(pooled, op.Concat(batch, regions, channels, integers(size, size), axis=0))
