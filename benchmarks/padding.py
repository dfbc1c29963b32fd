"""What it would save if workers sent images without padding, and the device padded them.

    python benchmarks/padding.py [--repeats 25]

Prints CPU milliseconds per batch of one thread (the least of the repeats) for two batches of noise images: 4 photos at
800 pixels, 8 at 128 pixels. A worker pads a batch and writes it to a memory file; without padding, it writes the
images only, and on a CPU the training process pads them.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from measure import machine
from rcnn.data.loading import pad_images

BATCHES = {
    "4 images, 800 pixels": [(800, 1199), (800, 1066), (800, 1067), (784, 1333)],
    "8 images, 128 pixels": [(96, 128), (85, 128)] * 4,
}
DIVISOR = 32


def rows_of(pixels: Tensor) -> memoryview:
    """The bytes of pixels (..., C, H, W) with C last in memory."""
    return pixels.movedim(-3, -1).contiguous().view(-1).numpy().data.cast("B")


def memory_file(parts: Sequence[memoryview]) -> int:
    """A new memory file with these bytes, one part after the other."""
    file, start = os.memfd_create("padding"), 0
    os.ftruncate(file, sum(map(len, parts)))
    for part in parts:
        done = 0
        while done < len(part):
            done += os.pwrite(file, part[done:], start + done)
        start += len(part)
    return file


def views(memory: mmap.mmap, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The images (3, h, w) in the memory of a batch without padding."""
    found, start = list[Tensor](), 0
    for height, width in sizes:
        flat = torch.frombuffer(memory, dtype=torch.uint8, count=height * width * 3, offset=start)
        found.append(flat.view(height, width, 3).permute(2, 0, 1))
        start += height * width * 3
    return found


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """CPU time of a call, the least of the repeats."""
    least = float("inf")
    for _ in range(repeats):
        start = time.process_time()
        call()
        least = min(least, time.process_time() - start)
    return round(1000 * least, 2)


def costs(sizes: Sequence[tuple[int, int]], repeats: int) -> dict[str, float]:
    """Milliseconds of each part for images of `sizes` (height, width)."""
    images = [torch.randint(0, 256, (*size, 3), dtype=torch.uint8).permute(2, 0, 1) for size in sizes]
    sent = memory_file([rows_of(image) for image in images])
    received = views(mmap.mmap(sent, 0), sizes)
    calls: dict[str, Callable[[], object]] = {
        "worker, pads": lambda: os.close(memory_file([rows_of(pad_images(images, DIVISOR, "exact").pixels)])),
        "worker, without padding": lambda: os.close(memory_file([rows_of(image) for image in images])),
        "training process on a CPU, pads": lambda: pad_images(received, DIVISOR, "exact"),
    }
    found = {name: milliseconds(call, repeats) for name, call in calls.items()}
    os.close(sent)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=25)
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {name: costs(sizes, given.repeats) for name, sizes in BATCHES.items()}
    print(json.dumps({"milliseconds_per_batch": found, "machine": machine()}))


if __name__ == "__main__":
    main()
