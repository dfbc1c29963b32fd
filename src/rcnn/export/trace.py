"""A detector as one graph with fixed inputs and outputs, by torch.export.

Letters: B images, H x W padded size, D detections, m side of a mask, J keypoints.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from typing_extensions import override

from rcnn.arguments import MOST_EXPORTED
from rcnn.export.windows import window_masks_without_slices
from rcnn.models import Detector, DetectorConfig
from rcnn.runtime.memory import is_out_of_memory
from rcnn.runtime.record import ExportRecord
from rcnn.structures import ImageBatch

LARGEST = 8192  # longest side of an image, pixels
EXAMPLE_SIDE = 192  # smallest side of the image that is traced; a multiple of the usual divisors


class TensorDetector(nn.Module):
    """`Detector.predict` from tensors to tensors, in the order of `ExportRecord.inputs` and `outputs`."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.unit = detector.config.input.divisor

    @override
    def forward(
        self, images: Tensor, sizes: Tensor, scales: Tensor | None = None, originals: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) RGB 0..255 and sizes (B, 2) int64 -> boxes (B, D, 4), scores, labels, valid (B, D).

        Then masks (B, D, m, m) and keypoints (B, D, J, 3), if the model has them. `scales` (B,) and `originals` (B, 2)
        as in `ImageBatch`, for models that count pixels of the file.
        """
        pixels = in_units(images, self.unit) if self.unit else images
        found = self.detector.predict(ImageBatch(pixels=pixels, sizes=sizes, scales=scales, originals=originals))
        values = (found.boxes, found.scores, found.labels, found.valid, found.masks, found.keypoints)
        return tuple(value for value in values if value is not None)


def in_units(images: Tensor, unit: int) -> Tensor:
    """The images (B, 3, H, W), whose sides are multiples of `unit`, with sides that torch.export writes as such.

    With H = 32 * h, it simplifies the sides of all maps, e.g. (H - 1) // 4 + 1 to 8 * h. It is slow with formulas that
    it cannot simplify.
    """
    count, channels, height, width = images.shape
    rows = images.view(count, channels, height // unit * unit, width)  # one side after the other: simpler to compare
    return rows.view(count, channels, height // unit * unit, width // unit * unit)


def trace(detector: Detector, record: ExportRecord) -> tuple[ExportedProgram, ExportRecord]:
    """The program of a detector prepared for inference, and the record with the smallest size that it accepts.

    Raises ValueError if the detector cannot be traced, e.g. because of the user's own modules.
    """
    example = example_inputs(record)
    try:
        with (
            torch.no_grad(),
            one_graph_for_all_sizes(detector),
            same_padding_in_integers(),
            window_masks_without_slices(detector),
        ):
            program = torch.export.export(
                TensorDetector(detector).eval(), tuple(example.values()), dynamic_shapes=dynamic_shapes(record)
            )
    except Exception as error:  # of torch.export: many kinds
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "" if record.size else ". Try a fixed size: --size HEIGHTxWIDTH (size=) --batch 1 (batch=)"
        raise ValueError(f"{record.config.name} cannot be traced by torch.export: {reason}{hint}") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the source files of this machine
    least = least_size(program)
    return program, record if record.size else replace(record, least_size=least)


@contextlib.contextmanager
def one_graph_for_all_sizes(detector: Detector) -> Iterator[None]:
    """Within the block, torch.export makes no graph of its own for maps with a side of 1.

    By default it does where a size is compared with 1, e.g. for broadcasting. With weights in channels-last layout, it
    does so in addition at each convolution, where it predicts the layout of the result. Afterwards the weights, also
    those of the program, are in channels-last layout again, in which convolutions are fast.
    """
    weights = [weight for weight in detector.parameters() if weight.ndim == 4]
    layouts = [weight.is_contiguous(memory_format=torch.channels_last) for weight in weights]
    for weight in weights:
        weight.data = weight.data.clone(memory_format=torch.contiguous_format)  # also of 1x1 kernels
    settings: Any = torch.fx.experimental._config
    try:
        with settings.patch(backed_size_oblivious=True):
            yield
    finally:
        for weight, channels_last in zip(weights, layouts, strict=True):
            if channels_last:
                weight.data = weight.data.clone(memory_format=torch.channels_last)


@contextlib.contextmanager
def same_padding_in_integers() -> Iterator[None]:
    """Within the block, timm computes the width of "same" padding in integers, which torch.export can simplify."""
    padding: Any = sys.modules.get("timm.layers.padding")
    if padding is None:
        yield
        return

    def width(side: int, kernel_size: int, stride: int, dilation: int) -> Any:
        covered = (-(-side // stride) - 1) * stride + (kernel_size - 1) * dilation + 1
        return torch.sym_max(covered - side, 0)

    before = padding.get_same_padding
    padding.get_same_padding = width
    try:
        yield
    finally:
        padding.get_same_padding = before


def example_inputs(record: ExportRecord, batch: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """Inputs (B, ...) with random pixels; B defaults to the record's, or 2."""
    images = batch or record.batch or 2
    height, width = record.size or example_size(record.config)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (images, 3, height, width), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[height - 5 * (image % 2), width] for image in range(images)])
    values = {
        "images": pixels.float() if record.float_images else pixels,
        "sizes": sizes,
        "scales": torch.full((images,), 0.5),
        "originals": sizes * 2,
    }
    return {name: values[name] for name in record.inputs}


def example_size(config: DetectorConfig) -> tuple[int, int]:
    """The padded (height, width) of an example. They differ, so that torch.export does not take them as equal."""
    if config.input.canvas:
        return config.input.canvas, config.input.canvas
    unit = max(1, config.input.divisor)
    return -(-EXAMPLE_SIDE // unit) * unit, -(-EXAMPLE_SIDE // unit) * unit + max(unit, 32)


def dynamic_shapes(record: ExportRecord) -> dict[str, Any]:
    """Which axes of the inputs are dynamic, for torch.export."""
    images: dict[int, Any] = {}
    if record.batch is None:
        images[0] = Dim("batch", min=1, max=MOST_EXPORTED)
    if record.size is None and not record.config.input.canvas:
        unit = record.config.input.divisor
        for axis, name in ((2, "height"), (3, "width")):
            # torch takes a symbol that is not itself a side of an input as 2 or more, so it is the units plus 1
            more = Dim(f"{name}_units_plus_1", min=2, max=LARGEST // unit + 1) if unit else None
            images[axis] = Dim(name, min=1, max=LARGEST) if more is None else unit * more - unit
    batch = {axis: value for axis, value in images.items() if axis == 0}
    return {name: images if name == "images" else batch for name in record.inputs}


def least_size(program: ExportedProgram) -> tuple[int, int]:
    """The smallest padded (height, width) that the program accepts."""
    ranges: Mapping[Any, Any] = program.range_constraints
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == "images")
    least: list[int] = []
    for side in shape[2:]:
        expression: Any = side if isinstance(side, int) else side.node.expr
        lowest = {symbol: ranges[symbol].lower for symbol in getattr(expression, "free_symbols", ())}
        least.append(int(expression.subs(lowest) if lowest else expression))
    return least[0], least[1]
