"""FCIS's mask voting: 600 candidates around 12 objects of a 640 x 480 photo, 100 detections, 21 x 21 masks.

    python benchmarks/mask_voting.py

Beside `rcnn::vote_masks` stands a loop over detections and their voters, each drawn into a canvas of its detection, as
the Chainer ports do it. Both must give the same boxes and masks.
"""

from __future__ import annotations

import argparse
import json
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from measure import alternate, write
from rcnn.ops.mask_voting import vote_masks, vote_weights
from rcnn.ops.nms import nms

HEIGHT, WIDTH, OBJECTS, CANDIDATES, CLASSES = 480, 640, 12, 600, 80
THRESHOLD = 0.4


def case() -> tuple[Tensor, Tensor, Tensor]:
    """Boxes (1, N, 4), masks (1, N, 21, 21) and the votes' weights (1, D, N)."""
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(OBJECTS, 2, generator=generator) * torch.tensor([WIDTH * 0.7, HEIGHT * 0.7])
    side = 60 + torch.rand(OBJECTS, 2, generator=generator) * 150
    owner = torch.arange(CANDIDATES) % OBJECTS
    boxes = torch.cat([corner, corner + side], 1)[owner]
    boxes = boxes + torch.randn(CANDIDATES, 4, generator=generator) * side[owner].repeat(1, 2) * 0.08
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([WIDTH, HEIGHT] * 2).float())[None]
    y, x = torch.meshgrid(torch.linspace(-1, 1, 21), torch.linspace(-1, 1, 21), indexing="ij")
    noise = torch.randn(CANDIDATES, 21, 21, generator=generator)
    masks = torch.sigmoid(6 * (0.8 - (x**2 + y**2).sqrt()) + noise)[None]
    scores = (torch.randn(CANDIDATES, CLASSES, generator=generator) * 3).softmax(1)[None]
    labels = torch.arange(CLASSES).repeat(1, CANDIDATES)
    every = scores.flatten(1)
    kept, valid = nms(boxes.repeat_interleave(CLASSES, 1), every, labels, every > 1e-3, 0.3, 100)
    real = torch.ones(1, CANDIDATES, dtype=torch.bool)
    return boxes, masks, vote_weights(boxes, scores, real, kept // CLASSES, kept % CLASSES, valid, 0.5)


def by_canvases(boxes: Tensor, masks: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (D, 4) and masks (D, 21, 21), by a loop over detections and voters."""
    edges = boxes[0].round().long().tolist()
    fitted: list[Tensor] = []
    voted: list[Tensor] = []
    for row in weights[0]:
        canvas = torch.zeros(HEIGHT, WIDTH)
        for voter in (row > 0).nonzero()[:, 0].tolist():
            x1, y1, x2, y2 = edges[voter]
            if x2 > x1 and y2 > y1:
                drawn = F.interpolate(masks[:, voter, None], size=(y2 - y1, x2 - x1), mode="bilinear")[0, 0]
                canvas[y1:y2, x1:x2] += row[voter] * (drawn >= THRESHOLD)
        hit = (canvas >= THRESHOLD).nonzero()
        (y1, x1), (y2, x2) = hit.amin(0).tolist(), (hit.amax(0) + 1).tolist()
        fitted.append(torch.tensor([x1, y1, x2, y2]))
        voted.append(F.interpolate(canvas[None, None, y1:y2, x1:x2], size=(21, 21), mode="bilinear")[0, 0])
    return torch.stack(fitted), torch.stack(voted)


def main() -> None:
    """Time both, alternating."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    boxes, masks, weights = case()
    sizes = torch.tensor([[HEIGHT, WIDTH]])
    fitted, voted, found = vote_masks(boxes, masks, weights, sizes, THRESHOLD, True)
    wanted_boxes, wanted_masks = by_canvases(boxes, masks, weights)
    same = bool((fitted[0] == wanted_boxes).all()) and float((voted[0] - wanted_masks).abs().max()) < 1e-4
    times = alternate(
        {
            "rcnn::vote_masks": lambda: vote_masks(boxes, masks, weights, sizes, THRESHOLD, True),
            "a canvas for each detection": lambda: by_canvases(boxes, masks, weights),
        },
        repeats=5,
    )
    values = {"detections": int(found.sum()), "votes": int((weights > 0).sum()), "equal": same, **times}
    print(json.dumps(values, indent=2))
    print(f"wrote {write('mask_voting', 'python benchmarks/mask_voting.py', values)}")
    if not same:
        sys.exit("the two differ")


if __name__ == "__main__":
    main()
