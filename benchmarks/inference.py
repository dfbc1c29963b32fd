"""Mask R-CNN R50-FPN, ours and torchvision's: same weights, same photo, alternating in one process.

    python benchmarks/inference.py --data DIR --split NAME

Each peer is given the decoded photo and gives boxes, scores, labels and masks at the photo's size, in its own form:
torchvision pastes probabilities into whole images, we encode run lengths. Timed with score threshold 0, so that 100
detections pass through the heads.

float32 is compared with torchvision on the photo, from a score of .05 on. bfloat16 is compared with float32 on all
images of the data set, with D2Go's trained Mask R-CNN (agreement.py). The exit code is 1 if either differs too much.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torchvision.ops import box_iou

from agreement import compare_precisions, trained_weights
from fitted import Photo, fit_heads, new_detector, open_photo, set_score_threshold, torchvision_twin
from measure import alternate, in_a_process, peak_memory, write
from rcnn.models import Detector
from rcnn.ops.coco_backend import rle_mask
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections

PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
PEERS = ("torchvision float32", *(f"rcnn {precision}" for precision in PRECISIONS))
SCORE = 0.05  # detections of torchvision from this score on are compared with those of rcnn float32 ...
BOX_PIXELS, SCORE_DIFFERENCE = 1e-3, 1e-3  # ... and differ by no more than this
MASK_IOU = 0.95  # of these fitted heads, many mask probabilities are nearly 0.5
CACHE = "fitted.pt"


def peers(detector: Detector, photo: Photo, threshold: float, names: Collection[str]) -> dict[str, Any]:
    """A call for each peer of `names`, from the photo's pixels to its detections."""
    calls: dict[str, Any] = {}
    if PEERS[0] in names:
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
        if name in names:
            predictor = Predictor(detector, classes=classes, device="cpu", precision=precision)
            calls[name] = lambda predictor=predictor: with_masks(predictor, photo)
    return calls


def with_masks(predictor: Predictor, photo: Photo) -> tuple[ImageDetections, list[dict[str, Any]] | None]:
    """Our detections, and their masks at the photo's size."""
    found = predictor.predict([photo.pixels])[0]
    return found, found.rles()


def compare(theirs: dict[str, torch.Tensor], ours: ImageDetections) -> dict[str, Any]:
    """Distances from the peer's detections to the nearest of rcnn with that label; "agree": they are small enough."""
    theirs = {name: value[theirs["scores"] >= SCORE] for name, value in theirs.items()}
    ours = ours.above(SCORE)
    labels = torch.from_numpy(ours.labels + 1)  # theirs count the background first
    iou = box_iou(theirs["boxes"], torch.from_numpy(ours.boxes)) * (theirs["labels"][:, None] == labels)
    twin = iou.argmax(1)
    rles = ours.rles() or []
    masks = np.stack([rle_mask(rles[int(i)]) for i in twin])
    expected = theirs["masks"][:, 0].numpy() >= 0.5
    values = {
        "scored_at_least": SCORE,
        "theirs": len(theirs["boxes"]),
        "ours": len(ours),
        "labels_equal": bool((iou.amax(1) > 0.5).all()) and len(set(twin.tolist())) == len(twin) == len(ours),
        "box_px": float((theirs["boxes"] - torch.from_numpy(ours.boxes)[twin]).abs().max()),
        "score": float((theirs["scores"] - torch.from_numpy(ours.scores)[twin]).abs().max()),
        "empty_masks": int((~expected.any((1, 2))).sum()),
        # of the pixels of all masks together: a mask of three pixels says little, and an empty one nothing
        "mask_iou": float((masks & expected).sum() / max(1, (masks | expected).sum())),
    }
    near = values["box_px"] <= BOX_PIXELS and values["score"] <= SCORE_DIFFERENCE and values["mask_iou"] >= MASK_IOU
    return values | {"agree": bool(values["labels_equal"] and near)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set whose photo is used")
    parser.add_argument("--split", required=True)
    parser.add_argument("--image", type=int, default=0, help="which of its images")
    parser.add_argument("--fit", type=int, default=60, help="steps that fit the heads to the photo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--weights", type=Path, default=Path("build/benchmark"), help="folder for the fitted weights")
    parser.add_argument("--trained", type=Path, help="D2Go's Mask R-CNN; default: ../../weights/d2go/ from --data")
    parser.add_argument("--float32-only", action="store_true", help="leave bfloat16 out, on a CPU without it")
    parser.add_argument("--memory-of", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    trained = options.trained or trained_weights(options.data, "mask")
    if not (trained.is_file() or options.float32_only):
        parser.error(
            f"{trained} does not exist: bfloat16 is compared with D2Go's weights; name the file with --trained"
        )
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
        call = peers(detector, photo, 0.0, [options.memory_of])[options.memory_of]
        for _ in range(2):
            call()
        print(json.dumps({"peak_mib": peak_memory()}))
        return
    names = PEERS[:2] if options.float32_only else PEERS
    found = {name: call() for name, call in peers(detector, photo, SCORE, PEERS[:2]).items()}
    agreement = {PEERS[1]: compare(found[PEERS[0]], found[PEERS[1]][0])}
    if not options.float32_only:
        agreement[PEERS[2]] = compare_precisions(trained, options.data)
    times = alternate(peers(detector, photo, 0.0, names), options.repeats)
    memory = {name: in_a_process(__file__, *sys.argv[1:], "--memory-of", name)["peak_mib"] for name in names}
    ratios = {name: times[PEERS[0]]["median_s"] / times[name]["median_s"] for name in names[1:]}
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
    print(f"wrote {path}", file=sys.stderr)
    if different := [f"{name} differs: {values}" for name, values in agreement.items() if not values["agree"]]:
        sys.exit("\n".join(different))


if __name__ == "__main__":
    main()
