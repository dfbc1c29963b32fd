"""Images per second that one core prepares for training, beside a bare decode of the same JPEG files.

    python benchmarks/loader.py --data DIR [--split train] [--model mask_rcnn_r50_fpn ...] [--images 64] [--repeats 5]
        [--set KEY=VALUE ...]

Prints one JSON object per model and writes all to results/loader.json. The loader does all that a worker process does:
it decodes, resizes, flips, moves the outlines, pads, and copies the batch to shared memory. Its images per second are
divided by those of two bare decodes: Pillow's `load`, and, where it is installed, torchcodec's `decode_jpeg`, which the
loader then uses itself. Times are CPU seconds of this process with one thread, the least of the repeats, which take
turns.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from measure import write
from rcnn.data import Dataset, open_dataset
from rcnn.data.images import read_image
from rcnn.data.jpeg import decode_jpeg
from rcnn.data.loading import numbered_batches
from rcnn.data.loading.workers import pack_and_write
from rcnn.training.plan import settings_of


def bare_decode(files: list[Path]) -> None:
    """Decode the files with Pillow, without a conversion or a copy."""
    for file in files:
        with Image.open(file) as image:
            image.load()


def fast_decode(files: list[Path]) -> None:
    """Decode the files with torchcodec."""
    for file in files:
        decode_jpeg(file.read_bytes())


def read(files: list[Path]) -> None:
    """Read the files as the loader does."""
    for file in files:
        read_image(file)


def load(dataset: Dataset, model: str, overrides: list[str]) -> tuple[Callable[[], None], int]:
    """A function that makes and packs the whole batches of one epoch, and the number of their images."""
    settings, input_config = settings_of(model, overrides)
    batches = numbered_batches(dataset, input_config, settings)
    count = len(dataset) // settings.images_per_step()

    def epoch() -> None:
        for n in range(count):
            pack_and_write(batches.make(n))

    return epoch, count * settings.images_per_step()


def cpu_seconds(calls: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """CPU seconds of each call: the least of `repeats`, in turns, after one that does not count."""
    least = dict.fromkeys(calls, float("inf"))
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn:
                least[name] = min(least[name], time.process_time() - start)
    return least


def measured(dataset: Dataset, model: str, overrides: list[str], repeats: int) -> dict[str, Any]:
    """Images per CPU second of the decoders and of the loader, and the loader's as a part of each decoder's."""
    files = [dataset.folder / name for name in dataset.file_names]
    decoders: dict[str, Callable[[], None]] = {"pillow": lambda: bare_decode(files)}
    if decode_jpeg(files[0].read_bytes()) is not None:
        decoders["torchcodec"] = lambda: fast_decode(files)
    loader, images = load(dataset, model, overrides)
    calls = decoders | {"read_image": lambda: read(files), "loader": loader}
    counts = dict.fromkeys(calls, len(files)) | {"loader": images}
    rates = {name: counts[name] / seconds for name, seconds in cpu_seconds(calls, repeats).items()}
    return {
        "images_per_cpu_second": {name: round(rate, 1) for name, rate in rates.items()},
        "loader_as_part_of": {name: round(rates["loader"] / rates[name], 3) for name in decoders},
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="data set with JPEG files")
    parser.add_argument("--split", default="", help="default: the training split")
    parser.add_argument("--model", nargs="+", default=["mask_rcnn_r50_fpn"], help="whose input size and masks")
    parser.add_argument("--images", type=int, default=64, help="number of images, at least train.batch_size")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings, e.g. train.augment=[crop]")
    given = parser.parse_args()
    torch.set_num_threads(1)
    dataset = open_dataset(given.data, given.split)
    dataset = dataset.subset(range(min(given.images, len(dataset))))
    models = dict[str, dict[str, Any]]()
    for model in given.model:
        models[model] = measured(dataset, model, given.set, given.repeats)
        print(json.dumps({"model": model, **models[model]}), flush=True)
    values = {"settings": given.set, "images": len(dataset), "models": models}
    print(f"wrote {write('loader', 'python benchmarks/loader.py ' + ' '.join(sys.argv[1:]), values)}", file=sys.stderr)


if __name__ == "__main__":
    main()
