"""Mask R-CNN R50-FPN, ours and torchvision's: same weights, same photo, alternating in one process.

    python benchmarks/inference.py --data DIR --split NAME

Each peer is given the decoded photo and gives boxes, scores, labels and masks at the photo's size, in its own form:
torchvision pastes probabilities into whole images, we encode run lengths. Timed with score threshold 0, so that 100
detections pass through the heads; compared from a score of .05 on, in bfloat16 from .5 on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision.ops import box_iou

from fitted import Photo, fit_heads, new_detector, open_photo, set_score_threshold, torchvision_twin
from measure import alternate, in_a_process, peak_memory, write
from rcnn.models import Detector
from rcnn.ops.coco_backend import rle_mask
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections

PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
PEERS = ("torchvision float32", *(f"rcnn {precision}" for precision in PRECISIONS))
# from what score on detections are compared, and how near they must be: boxes in pixels, scores. Which of two boxes
# that overlap by half survives turns on bfloat16's last digit where both score low
WANTED = {"rcnn float32": (0.05, 1e-3, 1e-3), "rcnn bfloat16": (0.5, 1.0, 0.02)}
CACHE = "fitted.pt"


def peers(detector: Detector, photo: Photo, threshold: float, only: str | None = None) -> dict[str, Any]:
    """A call for each peer, from the photo's pixels to its detections."""
    calls: dict[str, Any] = {}
    if only in (None, PEERS[0]):
        twin = torchvision_twin(detector, threshold).eval()
        image = photo.pixels.float() / 255

        @torch.inference_mode()
        def theirs() -> dict[str, torch.Tensor]:
            return twin([image])[0]

        calls[PEERS[0]] = theirs
    set_score_threshold(detector, threshold)
    classes = [str(number) for number in range(detector.config.num_classes)]
    for precision in PRECISIONS:
        name = f"rcnn {precision}"
        if only in (None, name):
            predictor = Predictor(detector, classes=classes, device="cpu", precision=precision)
            calls[name] = lambda predictor=predictor: with_masks(predictor, photo)
    return calls


def with_masks(predictor: Predictor, photo: Photo) -> tuple[ImageDetections, list[dict[str, Any]] | None]:
    """Our detections, and their masks at the photo's size."""
    found = predictor.predict([photo.pixels])[0]
    return found, found.rles()


def compare(theirs: dict[str, torch.Tensor], ours: ImageDetections, least: float) -> dict[str, Any]:
    """Distances from detections of the peer with a score of at least `least` to the nearest of rcnn with that label."""
    theirs = {name: value[theirs["scores"] >= least] for name, value in theirs.items()}
    ours = ours.above(least)
    labels = torch.from_numpy(ours.labels + 1)  # theirs count the background first
    iou = box_iou(theirs["boxes"], torch.from_numpy(ours.boxes)) * (theirs["labels"][:, None] == labels)
    twin = iou.argmax(1)
    rles = ours.rles() or []
    masks = np.stack([rle_mask(rles[int(i)]) for i in twin])
    expected = theirs["masks"][:, 0].numpy() >= 0.5
    overlap = (masks & expected).sum((1, 2)) / np.maximum((masks | expected).sum((1, 2)), 1)
    return {
        "scored_at_least": least,
        "theirs": len(theirs["boxes"]),
        "ours": len(ours),
        "labels_equal": bool((iou.amax(1) > 0.5).all()) and len(set(twin.tolist())) == len(twin) == len(ours),
        "box_px": float((theirs["boxes"] - torch.from_numpy(ours.boxes)[twin]).abs().max()),
        "score": float((theirs["scores"] - torch.from_numpy(ours.scores)[twin]).abs().max()),
        "lowest_mask_iou": float(overlap.min()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set whose photo is used")
    parser.add_argument("--split", required=True)
    parser.add_argument("--image", type=int, default=0, help="which of its images")
    parser.add_argument("--fit", type=int, default=60, help="steps that fit the heads to the photo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--weights", type=Path, default=Path("build/benchmark"), help="folder for the fitted weights")
    parser.add_argument("--memory-of", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    detector = new_detector()
    photo = open_photo(options.data, options.split, options.image, detector)
    cache = options.weights / CACHE
    if not cache.exists():
        loss = fit_heads(detector, photo, options.fit)
        print(f"fitting the heads, {options.fit} steps: loss {loss:.3f}", file=sys.stderr)
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(detector.state_dict(), cache)
    detector.load_state_dict(torch.load(cache, weights_only=True))
    if options.memory_of:
        call = peers(detector, photo, 0.0, options.memory_of)[options.memory_of]
        for _ in range(2):
            call()
        print(json.dumps({"peak_mib": peak_memory()}))
        return
    found = {name: call() for name, call in peers(detector, photo, 0.05).items()}
    agreement = {name: compare(found[PEERS[0]], found[name][0], WANTED[name][0]) for name in PEERS[1:]}
    times = alternate(peers(detector, photo, 0.0), options.repeats)
    memory = {name: in_a_process(__file__, *sys.argv[1:], "--memory-of", name)["peak_mib"] for name in PEERS}
    ratios = {name: times[PEERS[0]]["median_s"] / times[name]["median_s"] for name in PEERS[1:]}
    path = write(
        "inference",
        "python benchmarks/inference.py " + " ".join(sys.argv[1:]),
        {
            "model": "mask_rcnn_r50_fpn, torchvision's settings",
            "input": list(photo.images.pixels.shape),
            "times": times,
            "times_faster_than_torchvision": ratios,
            "peak_mib": memory,
            "agreement": agreement,
        },
    )
    print(json.dumps({"faster": ratios, "times": times, "peak_mib": memory, "agreement": agreement}, indent=2))
    for name, (_, pixels, score) in WANTED.items():
        close = agreement[name]
        if not (close["labels_equal"] and close["box_px"] <= pixels and close["score"] <= score):
            sys.exit(f"{name} differs from torchvision by more than {pixels} px and {score}: {close}")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
