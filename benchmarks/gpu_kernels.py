"""Inputs for benchmarks/gpu.py: each op on the device, and beside it its reference on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import Tensor
from torch.utils._pytree import tree_map

from rcnn.ops import roi_align as roi_align_module
from rcnn.ops.decode_and_clip import decode_and_clip
from rcnn.ops.keypoints import decode_keypoints
from rcnn.ops.nms import nms
from rcnn.ops.polygons import rasterize_polygons
from rcnn.ops.ps_roi import ps_roi_pool
from rcnn.ops.roi_align import assign_levels, roi_align

SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
WEIGHTS = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op with its arguments on the CPU."""

    name: str
    op: Callable[..., Any]
    arguments: tuple[Any, ...]
    tolerance: float = 1e-4  # absolute and relative
    gradient: bool = False  # the first argument has a gradient, which is compared too
    peer: Callable[..., Any] | None = None  # what others use for the same; takes the same arguments


def cases(tiny: bool) -> list[Case]:
    """Every op with a kernel, at the sizes of batch 8 of images of 800 x 1,333 pixels, or tiny."""
    torch.manual_seed(0)
    batch, side, regions, channels = (1, 64, 4, 8) if tiny else (8, 1024, 512, 256)
    boxes = random_boxes(batch, regions, side)
    valid = torch.rand(batch, regions) > 0.05
    levels = assign_levels(boxes)
    maps = [torch.randn(batch, channels, int(side * scale), int(side * scale)) for scale in SCALES]
    number = 40 if tiny else 5000
    many, groups = random_boxes(batch, number, side), torch.randint(0, 5, (batch, number))
    nms_arguments = (many, torch.rand(batch, number), groups, torch.rand(batch, number) > 0.05, 0.7, number // 5)
    joints, found = (2, 2) if tiny else (17, 100)
    return [
        Case(
            name="roi_align float32",
            op=roi_align,
            arguments=(maps, boxes, levels, valid, SCALES, 7, 2, True),
            gradient=True,
            peer=roi_align_module._pool_by_torchvision,
        ),
        Case(
            name="roi_align bfloat16",
            op=roi_align,
            arguments=([values.bfloat16() for values in maps], boxes, levels, valid, SCALES, 7, 0, True),
            tolerance=2e-2,
            gradient=True,
        ),
        Case(name="nms", op=nms, arguments=nms_arguments, tolerance=0, peer=by_batched_nms),
        Case(
            name="ps_roi_pool",
            op=ps_roi_pool,
            arguments=(torch.randn(batch, 42 * 49, side // 16, side // 16), boxes, valid, 1 / 16, 7, 7, False),
            gradient=True,
        ),
        Case(
            name="rasterize_polygons",
            op=rasterize_polygons,
            arguments=(outlines(batch, side), torch.randint(0, 8, (batch, regions)), boxes, valid, 28),
            tolerance=0,
        ),
        Case(
            name="decode_keypoints",
            op=decode_keypoints,
            arguments=(torch.randn(batch, found, joints, 56, 56), boxes[:, :found]),
            tolerance=1e-3,
        ),
        Case(
            name="decode_and_clip",
            op=decode_and_clip,
            arguments=(
                torch.randn(batch, number, 4),
                many[0],
                torch.randint(0, number, (batch, number // 5)),
                torch.full((batch, 2), side),
                WEIGHTS,
                4.0,
            ),
            tolerance=1e-3,
        ),
    ]


def random_boxes(batch: int, count: int, side: int) -> Tensor:
    """Boxes (batch, count, 4) of all sizes in images of `side` pixels."""
    corner = torch.rand(batch, count, 2) * side * 0.8
    size = 4 + torch.rand(batch, count, 2) ** 2 * (side - corner - 4)
    return torch.cat([corner, corner + size], -1)


def outlines(batch: int, side: int) -> Tensor:
    """8 objects per image, each a random polygon of 30 corners: (batch, 8, 32, 5)."""
    angles = torch.arange(30) / 30 * 2 * torch.pi
    radii = torch.rand(batch, 8, 30) * side / 4 + side / 8
    points = torch.stack([radii * angles.cos(), radii * angles.sin()], -1) + side / 2
    polygons = torch.full((batch, 8, 32, 5), -1.0)
    polygons[:, :, :30] = torch.cat([points, points.roll(-1, 2), torch.zeros(batch, 8, 30, 1)], -1)
    return polygons


def by_batched_nms(boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, threshold: float, keep: int) -> None:
    """torchvision's NMS, image by image, as its detectors call it."""
    for image in range(len(boxes)):
        real = valid[image]
        torchvision.ops.batched_nms(boxes[image][real], scores[image][real], groups[image][real], threshold)[:keep]


def on_device(arguments: tuple[Any, ...], device: torch.device) -> tuple[Any, ...]:
    """The arguments with copies of their tensors on the device."""

    def copied(value: Any) -> Any:
        return value.to(device, copy=True) if isinstance(value, Tensor) else value

    return tree_map(copied, arguments)


def outputs(case: Case, arguments: tuple[Any, ...]) -> list[Tensor]:
    """The results of the op and, where it has one, the gradient of its first argument."""
    first = arguments[0] if isinstance(arguments[0], list) else [arguments[0]]
    if not case.gradient:
        result = case.op(*arguments)
        return list(result) if isinstance(result, tuple) else [result]
    for value in first:
        value.grad = None
        value.requires_grad_()
    result = case.op(*arguments)
    result.float().square().sum().backward()
    return [result.detach(), *(value.grad for value in first)]
