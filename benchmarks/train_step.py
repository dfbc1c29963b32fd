"""A training step of Mask R-CNN R50-FPN, ours and torchvision's: same weights, photo and sampling sizes, alternating.

    python benchmarks/train_step.py --data DIR --split NAME

Forward, backward and SGD, batch 1, 800 pixels; the photo is decoded before. torchvision resizes within its step, as it
must; ours is given what our loader's processes make beside the step: the resized image and its outlines.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fitted import Photo, new_detector, open_photo, torchvision_twin
from measure import alternate, in_a_process, peak_memory, write
from rcnn.models import Detector, build_detector

PEERS = ("torchvision float32", "rcnn float32", "rcnn bfloat16")


def their_step(detector: Detector, photo: Photo) -> Any:
    """torchvision's step."""
    twin = torchvision_twin(detector).train()
    for name, parameter in twin.named_parameters():  # as ours is: stem and res2 as they are
        parameter.requires_grad_(not name.startswith(("backbone.body.conv1", "backbone.body.layer1")))
    optimizer = torch.optim.SGD([p for p in twin.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)
    sample = photo.sample
    if sample.bitmaps is None:
        raise ValueError("the photo was opened without bitmaps")
    image = photo.pixels.float() / 255
    target = {"boxes": sample.boxes, "labels": sample.labels + 1, "masks": sample.bitmaps.to(torch.uint8)}

    def step() -> float:
        losses = twin([image], [target])
        loss = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def our_step(detector: Detector, photo: Photo, bf16: bool) -> Any:
    """Ours, as `rcnn.training.engine.train` takes it."""
    ours = copy.deepcopy(detector).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD([p for p in ours.parameters() if p.requires_grad], lr=1e-5, momentum=0.9)
    seed = torch.tensor(0)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            losses = ours(photo.images, photo.targets, seed)
        loss = torch.stack(list(losses.values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    return step


def main() -> None:
    """Time, then memory of each peer in a separate process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set whose photo is used")
    parser.add_argument("--split", required=True)
    parser.add_argument("--image", type=int, default=0, help="which of its images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--float32-only", action="store_true", help="leave bfloat16 out, on a CPU without it")
    parser.add_argument("--memory-of", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    detector = new_detector()
    config = detector.config
    mask = None if config.mask is None else replace(config.mask, target="polygon")
    ours = build_detector(replace(config, mask=mask))
    ours.load_state_dict(detector.state_dict())
    bitmaps, polygons = (
        open_photo(options.data, options.split, options.image, detector, masks=masks) for masks in ("bitmap", "polygon")
    )
    names = PEERS[:2] if options.float32_only else PEERS
    steps = {
        PEERS[0]: lambda: their_step(detector, bitmaps),
        PEERS[1]: lambda: our_step(ours, polygons, bf16=False),
        PEERS[2]: lambda: our_step(ours, polygons, bf16=True),
    }
    if options.memory_of:
        step = steps[options.memory_of]()
        for _ in range(2):
            step()
        print(json.dumps({"peak_mib": peak_memory()}))
        return
    times = alternate({name: steps[name]() for name in names}, options.repeats, warmup=1)
    memory = {name: in_a_process(__file__, *sys.argv[1:], "--memory-of", name)["peak_mib"] for name in names}
    values = {
        "model": "mask_rcnn_r50_fpn, torchvision's settings, stem and res2 frozen",
        "input": list(polygons.images.pixels.shape),
        "times": times,
        "times_faster_than_torchvision": {
            name: times[PEERS[0]]["median_s"] / times[name]["median_s"] for name in names[1:]
        },
        "peak_mib": memory,
    }
    print(json.dumps(values, indent=2))
    print(f"wrote {write('train_step', 'python benchmarks/train_step.py ' + ' '.join(sys.argv[1:]), values)}")


if __name__ == "__main__":
    main()
