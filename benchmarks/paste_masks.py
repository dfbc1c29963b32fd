"""Masks of 28 x 28 pasted into images and encoded as run lengths: seconds, and memory of the whole process.

    python benchmarks/paste_masks.py

The peer is torchvision's paste and pycocotools' encode. Of a thousand masks in an image of 4,000 x 3,000, its form of
the same, an array of floats for every mask, would need 48 GB: there it is timed with 40 masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torchvision.models.detection.roi_heads import paste_masks_in_image

from measure import in_a_process, peak_memory, write
from rcnn.ops.coco_backend import encode_pasted
from rcnn.ops.masks import paste_masks

LARGE, USUAL = (3000, 4000), (800, 1333)  # height, width
COMPARED = ((100, "usual"), (40, "large"))  # numbers of masks, and sizes
REPEATS = 5  # the shortest counts


def random_masks(count: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft discs (N, 28, 28) and boxes (N, 4) of a sixth of the image's sides on average."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    masks = torch.sigmoid(6 * (0.8 - (x**2 + y**2).sqrt())).expand(count, -1, -1)
    image = torch.tensor([size[1], size[0]], dtype=torch.float32)
    corner = torch.rand(count, 2, generator=generator) * image * 0.7
    side = torch.rand(count, 2, generator=generator) * image * 0.3 + 10
    return masks.contiguous(), torch.cat([corner, torch.minimum(corner + side, image)], 1)


def paste(peer: str, count: int, size: tuple[int, int]) -> float:
    """Seconds."""
    masks, boxes = random_masks(count, size)
    start = time.perf_counter()
    if peer == "rcnn":
        for pasted in paste_masks(masks, boxes, size):
            encode_pasted(*pasted, size)
    else:
        pasted = paste_masks_in_image(masks[:, None], boxes, size)[:, 0] >= 0.5
        for mask in pasted.numpy():
            coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return time.perf_counter() - start


def main() -> None:
    """Each case in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        peer, count, size = options.case[0], int(options.case[1]), USUAL if options.case[2] == "usual" else LARGE
        before = peak_memory()
        seconds = min(paste(peer, count, size) for _ in range(REPEATS if count <= 100 else 1))
        print(json.dumps({"seconds": seconds, "peak_mib": peak_memory(), "before_mib": before}))
        return
    cases: list[tuple[str, int, str]] = [("rcnn", 1000, "large")]
    cases += [(peer, count, size) for count, size in COMPARED for peer in ("rcnn", "torchvision")]
    values: dict[str, Any] = {
        f"{peer}, {count} masks, {size}": in_a_process(__file__, "--case", peer, str(count), size)
        for peer, count, size in cases
    }
    for count, size in COMPARED:
        ours, theirs = (values[f"{peer}, {count} masks, {size}"]["seconds"] for peer in ("rcnn", "torchvision"))
        values[f"times faster, {size}"] = theirs / ours
    print(json.dumps(values, indent=2))
    print(f"wrote {write('paste_masks', 'python benchmarks/paste_masks.py', values)}", file=sys.stderr)
    thousand = values["rcnn, 1000 masks, large"]
    if thousand["peak_mib"] - thousand["before_mib"] > 1000:
        sys.exit("a thousand masks took more than 1 GB")


if __name__ == "__main__":
    main()
