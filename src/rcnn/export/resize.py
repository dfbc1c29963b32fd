"""An approximate resize inside an ONNX file (`--with-resize`): image in, detections in pixels of that image out.

The exact resize is that of `rcnn.preprocess`. ONNX's Resize rounds differently; most pixels differ by up to 1 of 255.

Sizes are computed in float64, as the preprocessor does: float32 rounds every tenth side of torchvision's down by one.
The scale is the minimum of one division of two numbers: OpenVINO 2026.4 computes the minimum of two divisions wrongly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rcnn.models import DetectorConfig
from rcnn.preprocess.config import InputConfig
from rcnn.runtime.record import ExportRecord

PREFIX = """
<ir_version: 10, opset_import: ["" : 18]>
resize (uint8[1, 3, "H", "W"] image)
=> ({kind}[1, 3, "h", "w"] images, int64[1, 2] sizes, float[1, 4] factors, float[1, 4] limits)
{{
  whole = Shape <start = 2, end = 4> (image)
  side = Cast <to = 11> (whole)
  shorter = ReduceMin <keepdims = 1> (side)
  longer = ReduceMax <keepdims = 1> (side)
  limit = Constant <value = double[2] {{ {low}, {high} }}> ()
  half = Constant <value = double[1] {{ {half} }}> ()
  one = Constant <value = double[1] {{ 1.0 }}> ()
  extent = Concat <axis = 0> (shorter, longer)
  scales = Div (limit, extent)
  scale = ReduceMin <keepdims = 1> (scales)
  scaled = Mul (side, scale)
  shifted = Add (scaled, half)
  floored = Floor (shifted)
  resized = Max (floored, one)
  size = Cast <to = 7> (resized)
  channels = Constant <value = int64[2] {{ 1, 3 }}> ()
  shape = Concat <axis = 0> (channels, size)
  pixels = Cast <to = 1> (image)
  planes = Resize <
    mode = "linear", antialias = {antialias}, coordinate_transformation_mode = "{mode}"
  > (pixels, , , shape)
  divisor = Constant <value = int64[2] {{ {divisor}, {divisor} }}> ()
  least = Constant <value = int64[2] {{ {height}, {width} }}> ()
  more = Constant <value = int64[2] {{ {more}, {more} }}> ()
  raised = Add (size, more)
  units = Div (raised, divisor)
  multiple = Mul (units, divisor)
  padded = Max (multiple, least)
  added = Sub (padded, size)
  before = Constant <value = int64[6] {{ 0, 0, 0, 0, 0, 0 }}> ()
  pads = Concat <axis = 0> (before, added)
  canvas = Pad (planes, pads)
  {pixels}
  axis = Constant <value = int64[1] {{ 0 }}> ()
  sizes = Unsqueeze (size, axis)
  xy = Constant <value = int64[4] {{ 1, 0, 1, 0 }}> ()
  ratio = Div (side, resized)
  single = Cast <to = 1> (ratio)
  ratios = Gather (single, xy)
  factors = Unsqueeze (ratios, axis)
  extents = Cast <to = 1> (side)
  corners = Gather (extents, xy)
  limits = Unsqueeze (corners, axis)
}}
"""
WHOLE_NUMBERS = """rounded = Round (canvas)
  images = Cast <to = 2> (rounded)"""
FRACTIONS = "images = Identity (canvas)"


def unsupported_resize(config: DetectorConfig, inputs: tuple[str, ...]) -> str:
    """Why the resize of a model cannot be inside the file; empty if it can."""
    if inputs != ("images", "sizes"):
        return "the model counts pixels of the image file"
    if config.input.canvas:
        return "the model puts the image on a canvas of fixed size"
    if config.input.resize.startswith("opencv"):
        return "ONNX has no resize like OpenCV's"
    if config.input.size_rounding != "round" or config.input.rescale != "axes":
        return "the file resizes only with input.size_rounding=round and input.rescale=axes"
    return ""


def add_resize(file: Path, record: ExportRecord, output: Path) -> None:
    """Write the ONNX file `file`, which takes one image of any size, as `output` with the resize before it."""
    import onnx

    model: Any = onnx.load(str(file))
    front: Any = onnx.parser.parse_model(_prefix(record.config.input, record))
    front = onnx.compose.add_prefix(front, "resize_", rename_inputs=False, rename_outputs=False)
    front.ir_version = model.ir_version
    merged: Any = onnx.compose.merge_models(
        front, model, io_map=[("images", "images"), ("sizes", "sizes")], outputs=["factors", "limits", *record.outputs]
    )
    _to_original(merged.graph, record)
    onnx.helper.set_model_props(merged, {one.key: one.value for one in model.metadata_props})
    onnx.checker.check_model(merged)
    onnx.save(merged, str(output))


def _prefix(config: InputConfig, record: ExportRecord) -> str:
    """The graph from the image to the input of the network."""
    divisor, rounded = max(1, config.divisor), not record.float_images
    return PREFIX.format(
        kind="uint8" if rounded else "float", low=f"{config.min_size}.0", high=f"{config.max_size}.0",
        half="0.0" if config.resize == "bilinear" else "0.5", antialias=int(config.resize == "antialias"),
        mode="align_corners" if config.resize == "align_corners" else "half_pixel", divisor=divisor, more=divisor - 1,
        height=record.least_size[0], width=record.least_size[1], pixels=WHOLE_NUMBERS if rounded else FRACTIONS,
    )  # fmt: skip


def _to_original(graph: Any, record: ExportRecord) -> None:
    """Scale and clip the boxes of a graph to the pixels of the image, and scale its keypoints."""
    from onnx import helper

    def rename(name: str) -> str:
        for node in graph.node:
            for position, value in enumerate(node.output):
                if value == name:
                    node.output[position] = f"{name}_of_network"
            for position, value in enumerate(node.input):
                if value == name:
                    node.input[position] = f"{name}_of_network"
        return f"{name}_of_network"

    def node(operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        graph.node.append(helper.make_node(operator, inputs, [output], **attributes))

    boxes = rename("boxes")
    node("Mul", [boxes, "factors"], "boxes_scaled")
    node("Constant", [], "zero_of_boxes", value_float=0.0)
    node("Max", ["boxes_scaled", "zero_of_boxes"], "boxes_positive")
    node("Min", ["boxes_positive", "limits"], "boxes")
    if "keypoints" in record.outputs:
        points = rename("keypoints")
        node("Constant", [], "first_two", value_ints=[0])
        node("Constant", [], "end_of_two", value_ints=[2])
        node("Constant", [], "last_axis", value_ints=[1])
        node("Slice", ["factors", "first_two", "end_of_two", "last_axis"], "point_factors")
        node("Constant", [], "score_factor", value=helper.make_tensor("score_factor_value", 1, [1, 1], [1.0]))
        node("Concat", ["point_factors", "score_factor"], "xy_and_score", axis=1)
        node("Mul", [points, "xy_and_score"], "keypoints")
    kept = [output for output in graph.output if output.name in record.outputs]
    del graph.output[:]
    graph.output.extend(kept)
