"""Random batches for tests of models: images with objects that are outlined by polygons."""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.structures import ImageBatch, Targets


def random_images(sizes: list[tuple[int, int]], shape: tuple[int, int] | None = None, seed: int = 0) -> ImageBatch:
    """Noise images of `sizes` (height, width), padded to `shape` or to the largest, by a multiple of 32."""
    generator = torch.Generator().manual_seed(seed)
    height, width = shape or (-(-max(h for h, _ in sizes) // 32) * 32, -(-max(w for _, w in sizes) // 32) * 32)
    pixels = torch.zeros(len(sizes), 3, height, width, dtype=torch.uint8)
    for slot, (h, w) in zip(pixels, sizes, strict=True):
        slot[:, :h, :w] = torch.randint(0, 256, (3, h, w), generator=generator)
    return ImageBatch(pixels=pixels, sizes=torch.tensor(sizes))


def images_of(sizes: Tensor, scales: Tensor | None = None) -> ImageBatch:
    """Images of `sizes` (B, 2) without pixels, for parts that read only their geometry."""
    return ImageBatch(pixels=torch.zeros(len(sizes), 3, 1, 1), sizes=sizes, scales=scales)


def random_targets(
    sizes: list[tuple[int, int]], counts: list[int], num_classes: int, capacity: int | None = None, seed: int = 0
) -> Targets:
    """`counts[i]` objects in image i, each a diamond that fills its box."""
    generator = torch.Generator().manual_seed(seed)
    places = capacity or max(8, *counts)
    boxes = torch.zeros(len(sizes), places, 4)
    polygons = torch.zeros(len(sizes), places, 4, 5)
    polygons[..., 4] = -1
    labels = torch.randint(0, num_classes, (len(sizes), places), generator=generator)
    valid = torch.arange(places) < torch.tensor(counts)[:, None]
    for image, ((height, width), count) in enumerate(zip(sizes, counts, strict=True)):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.7, height * 0.7])
        side = 8 + torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.3 - 8, height * 0.3 - 8])
        boxes[image, :count] = torch.cat([corner, corner + side], 1)
        x1, y1, x2, y2 = boxes[image, :count].unbind(1)
        x, y = (x1 + x2) / 2, (y1 + y2) / 2
        points = torch.stack([torch.stack(p, -1) for p in ((x, y1), (x2, y), (x, y2), (x1, y))], 1)  # (count, 4, 2)
        polygons[image, :count] = torch.cat([points, points.roll(-1, 1), torch.zeros(count, 4, 1)], -1)
    return Targets(boxes=boxes, labels=labels * valid, valid=valid, polygons=polygons)
