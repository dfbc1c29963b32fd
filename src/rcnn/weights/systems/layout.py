"""Functions that reorder the rows and axes of tensors that several systems store in another order.

Our layout: background is the last class score, without a box and a mask; the anchors of a cell are ordered by size,
then by ratio (sizes outer, ratios inner); deltas are dx, dy, dw, dh; kernels are (out, in, height, width).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rcnn.models import DetectorConfig

RPN_OUTPUTS = ("rpn.objectness.", "rpn.deltas.")


def layer_of(name: str) -> str:
    """The layer of a tensor: `rpn.deltas` for `rpn.deltas.weight`, without the number of a cascade stage."""
    layer = name.rpartition(".")[0]
    return f"box_head.{layer.rpartition('.')[2]}" if layer.startswith("box_head.stages.") else layer


def background_last(name: str, value: Tensor) -> Tensor:
    """Reorder the rows of our tensor `name` from background first to our order.

    Background moves to the end of the scores; its box and its mask, which nothing uses, are dropped. Class-agnostic
    boxes (4 rows) and masks (1 row) stay.
    """
    match layer_of(name):
        case "box_head.logits":
            return value.roll(-1, 0)
        case "box_head.deltas" if len(value) > 4:
            return value[4:]
        case "mask_head.logits" if len(value) > 1:
            return value[1:]
    return value


def background_first(name: str, value: Tensor) -> Tensor:
    """The inverse of `background_last`: the box and the mask of background are zeros."""
    match layer_of(name):
        case "box_head.logits":
            return value.roll(1, 0)
        case "box_head.deltas":
            return torch.cat([torch.zeros_like(value[:4]), value])
        case "mask_head.logits":
            return torch.cat([torch.zeros_like(value[:1]), value])
    return value


def swap_anchors(value: Tensor, outer: int, inner: int) -> Tensor:
    """Rows (outer, inner, n) of an RPN output, n for each anchor, as (inner, outer, n).

    Raises ValueError if the rows are not a multiple of the number of anchors.
    """
    if value.ndim == 0 or len(value) % (outer * inner):
        raise ValueError(
            f"an RPN output has shape {tuple(value.shape)}, which does not fit {outer} x {inner} anchors per cell: set "
            "rpn.anchors.ratios and rpn.anchors.sizes to those of the training, or give its settings file with config "
            "(--config)"
        )
    if 1 in (outer, inner):
        return value
    return value.unflatten(0, (outer, inner, -1)).transpose(0, 1).flatten(0, 2)


def anchors_from_ratio_outer(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    """Reorder the rows of our tensor `name` from anchors ordered by ratio, then size, to our order."""
    return swap_anchors(value, *reversed(_anchors(config))) if name.startswith(RPN_OUTPUTS) else value


def anchors_to_ratio_outer(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    """The inverse of `anchors_from_ratio_outer`."""
    return swap_anchors(value, *_anchors(config)) if name.startswith(RPN_OUTPUTS) else value


def _anchors(config: DetectorConfig) -> tuple[int, int]:
    """The numbers of sizes and of ratios of the anchors in a cell."""
    return len(config.rpn.anchors.sizes[0]), len(config.rpn.anchors.ratios)


def paired_logits(value: Tensor) -> Tensor:
    """Reorder RPN rows from all backgrounds, then all objects, to background and object of each anchor."""
    return value.unflatten(0, (2, -1)).transpose(0, 1).flatten(0, 1)


def deltas_from_yx(value: Tensor) -> Tensor:
    """Reorder rows dy, dx, dh, dw to dx, dy, dw, dh."""
    return value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


def kernel_from_hwio(value: Tensor) -> Tensor:
    """TensorFlow's kernels (height, width, in, out) as (out, in, height, width), and (in, out) as (out, in).

    A deconvolution's (height, width, out, in) becomes (in, out, height, width), which is what PyTorch has.
    """
    return value.permute(3, 2, 0, 1) if value.ndim == 4 else value.t() if value.ndim == 2 else value


def kernel_to_hwio(value: Tensor) -> Tensor:
    """The inverse of `kernel_from_hwio`."""
    return value.permute(2, 3, 1, 0) if value.ndim == 4 else value.t() if value.ndim == 2 else value


def identity_statistics(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`state` with a mean of 0 and a variance of 1 for every norm without statistics.

    With an eps of 0, such a frozen norm applies exactly its scale and shift, like Caffe's AffineChannel.
    """
    whole = dict(state)
    for name, value in state.items():
        if name.endswith(".norm.weight"):
            norm = name.removesuffix("weight")
            whole.setdefault(f"{norm}running_mean", torch.zeros(value.shape))
            whole.setdefault(f"{norm}running_var", torch.ones(value.shape))
    return whole


def fold_biases(state: dict[str, Tensor]) -> None:
    """Move the biases of convolutions that have a norm into the norm: its mean, or its shift if it has no mean."""
    for name in [name for name in state if name.endswith(".bias") and ".norm." not in name]:
        norm = f"{name.removesuffix('bias')}norm."
        if f"{norm}running_mean" in state:
            state[f"{norm}running_mean"] = state[f"{norm}running_mean"] - state.pop(name)
        elif f"{norm}weight" in state:
            state[f"{norm}bias"] = state[f"{norm}bias"] + state[f"{norm}weight"] * state.pop(name)
