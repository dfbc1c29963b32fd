"""A thousand masks pasted into a 4,000 x 3,000 image, as run lengths: seconds, and memory of the whole process.

    python benchmarks/paste_masks.py

torchvision's form of the same, an array of floats for every mask, would need 48 GB: it is timed with 40 masks.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from measure import in_a_process, peak_memory, write
from rcnn.ops.coco_backend import encode_region
from rcnn.ops.masks import paste_regions

SIZE = (3000, 4000)  # height, width


def random_masks(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft discs (N, 28, 28) and boxes (N, 4) of a sixth of the image's sides on average."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")
    masks = torch.sigmoid(6 * (0.8 - (x**2 + y**2).sqrt())).expand(count, -1, -1)
    image = torch.tensor([SIZE[1], SIZE[0]], dtype=torch.float32)
    corner = torch.rand(count, 2, generator=generator) * image * 0.7
    side = torch.rand(count, 2, generator=generator) * image * 0.3 + 10
    return masks.contiguous(), torch.cat([corner, torch.minimum(corner + side, image)], 1)


def paste(peer: str, count: int) -> float:
    """Seconds."""
    masks, boxes = random_masks(count)
    start = time.perf_counter()
    if peer == "rcnn":
        for region in paste_regions(masks, boxes, SIZE):
            encode_region(*region, SIZE)
    else:
        paste_masks_in_image(masks[:, None], boxes, SIZE)
    return time.perf_counter() - start


def main() -> None:
    """Each case in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        before = peak_memory()
        seconds = paste(options.case[0], int(options.case[1]))
        print(json.dumps({"seconds": seconds, "peak_mib": peak_memory(), "before_mib": before}))
        return
    cases = [("rcnn", 40), ("torchvision", 40), ("rcnn", 1000)]
    values = {f"{peer}, {count} masks": in_a_process(__file__, "--case", peer, str(count)) for peer, count in cases}
    print(json.dumps(values, indent=2))
    print(f"wrote {write('paste_masks', 'python benchmarks/paste_masks.py', {'image': list(SIZE), **values})}")
    if values["rcnn, 1000 masks"]["peak_mib"] > 2000:
        sys.exit("a thousand masks took more than 2 GB")


if __name__ == "__main__":
    main()
