"""Keypoint R-CNN R50-FPN, ours and torchvision's: same weights, same photo, alternating in one process.

    python benchmarks/keypoints.py --data DIR --split NAME

The heads are fitted to the photo (fitted.py). Timed with score threshold 0, so that as many detections as come pass
through the heads. float32 is compared with torchvision from a score of .05 on; bfloat16 with float32 on all images of
the data set, with D2Go's trained weights (agreement.py). Then decoding alone, of 100 regions' maps.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints
from torchvision.ops import box_iou

from agreement import compare_precisions, trained_weights
from fitted import Photo, fit_heads, new_detector, open_photo, set_score_threshold, torchvision_twin
from measure import alternate, in_a_process, peak_memory, write
from rcnn.models import Detector
from rcnn.ops.keypoints import decode_keypoints
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections

PRECISIONS: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
PEERS = ("torchvision float32", *(f"rcnn {precision}" for precision in PRECISIONS))
SCORE = 0.05  # detections of torchvision from this score on are compared with those of rcnn float32 ...
BOX_PIXELS, SCORE_DIFFERENCE, WITHIN = 1e-3, 1e-3, 0.99  # ... and this part of the keypoints is within a pixel
CACHE = "fitted_keypoints.pt"


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
    for precision in PRECISIONS:
        name = f"rcnn {precision}"
        if name in names:
            predictor = Predictor(detector, classes=("person",), device="cpu", precision=precision)
            calls[name] = lambda predictor=predictor: predictor.predict([photo.pixels])[0]
    return calls


def compare(theirs: dict[str, torch.Tensor], ours: ImageDetections) -> dict[str, Any]:
    """Distances from the peer's detections to the nearest of rcnn; "agree": they are small enough."""
    theirs = {name: value[theirs["scores"] >= SCORE] for name, value in theirs.items()}
    ours = ours.above(SCORE)
    iou = box_iou(theirs["boxes"], torch.from_numpy(ours.boxes))
    twin = iou.argmax(1)
    assert ours.keypoints is not None
    points = torch.from_numpy(ours.keypoints)[twin][..., :2]
    off = (points - theirs["keypoints"][..., :2]).abs().amax(-1)  # (D, J)
    values: dict[str, Any] = {
        "scored_at_least": SCORE,
        "theirs": len(theirs["boxes"]),
        "ours": len(ours),
        "same_set": bool((iou.amax(1) > 0.5).all()) and len(set(twin.tolist())) == len(twin) == len(ours),
        "box_px": float((theirs["boxes"] - torch.from_numpy(ours.boxes)[twin]).abs().max()),
        "score": float((theirs["scores"] - torch.from_numpy(ours.scores)[twin]).abs().max()),
        "keypoint_px_median": float(off.median()),
        "keypoints_within_1_px": float((off <= 1).float().mean()),
    }
    near = values["box_px"] <= BOX_PIXELS and values["score"] <= SCORE_DIFFERENCE
    return values | {"agree": values["same_set"] and near and values["keypoints_within_1_px"] >= WITHIN}


def decoding(repeats: int) -> dict[str, Any]:
    """Seconds to decode maps of 100 regions of 20 to 500 pixels, and the largest distance to torchvision's points."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(100, 17, 28, 28, generator=generator)
    maps = F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
    corner = torch.rand(100, 2, generator=generator) * 500
    boxes = torch.cat([corner, corner + 20 + torch.rand(100, 2, generator=generator) * torch.tensor([300, 480])], 1)
    calls = {
        "torchvision": lambda: heatmaps_to_keypoints(maps, boxes)[0],
        "rcnn": lambda: decode_keypoints(maps[None], boxes[None])[0],
    }
    off = (calls["rcnn"]()[..., :2] - calls["torchvision"]()[..., :2]).abs().max()
    times = alternate(calls, repeats)
    faster = times["torchvision"]["median_s"] / times["rcnn"]["median_s"]
    return {"times": times, "times_faster_than_torchvision": faster, "keypoint_px": float(off)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set of persons with keypoints")
    parser.add_argument("--split", required=True)
    parser.add_argument("--image", type=int, default=0, help="which of its images")
    parser.add_argument("--fit", type=int, default=60, help="steps that fit the heads to the photo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weights", type=Path, default=Path("build/benchmark"), help="folder for the fitted weights")
    parser.add_argument("--trained", type=Path, help="D2Go's Keypoint R-CNN; default: ../../weights/d2go/ from --data")
    parser.add_argument("--float32-only", action="store_true", help="leave bfloat16 out, on a CPU without it")
    parser.add_argument("--memory-of", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    trained = options.trained or trained_weights(options.data, "keypoint")
    if not (trained.is_file() or options.float32_only):
        parser.error(f"{trained} does not exist; name the file of D2Go's Keypoint R-CNN with --trained")
    detector = new_detector("keypointrcnn_resnet50_fpn")
    photo = open_photo(options.data, options.split, options.image, detector, masks=None)
    cache = options.weights / CACHE
    if not cache.exists():
        loss = fit_heads(detector, photo, options.fit, 1 / 16)
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
    agreement = {PEERS[1]: compare(found[PEERS[0]], found[PEERS[1]])}
    if not options.float32_only:
        agreement[PEERS[2]] = compare_precisions(trained, options.data)
    timed = peers(detector, photo, 0.0, names)
    counts = {name: len(call()["boxes"] if name == PEERS[0] else call()) for name, call in timed.items()}
    times = alternate(timed, options.repeats)
    memory = {name: in_a_process(__file__, *sys.argv[1:], "--memory-of", name)["peak_mib"] for name in names}
    ratios = {name: times[PEERS[0]]["median_s"] / times[name]["median_s"] for name in names[1:]}
    values = {
        "model": "keypoint_rcnn_r50_fpn, torchvision's settings",
        "input": list(photo.images.pixels.shape),
        "detections_timed": counts,
        "times": times,
        "times_faster_than_torchvision": ratios,
        "peak_mib": memory,
        "agreement": agreement,
        "decoding_100_regions": decoding(options.repeats),
    }
    path = write("keypoints", "python benchmarks/keypoints.py " + " ".join(sys.argv[1:]), values)
    print(json.dumps(values, indent=2))
    print(f"wrote {path}", file=sys.stderr)
    if different := [f"{name} differs: {one}" for name, one in agreement.items() if not one["agree"]]:
        sys.exit("\n".join(different))


if __name__ == "__main__":
    main()
