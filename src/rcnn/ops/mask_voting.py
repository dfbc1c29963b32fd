"""Mask voting: masks averaged over overlapping detections.

`vote_masks`, the opaque op `rcnn::vote_masks`, is that of FCIS (Li et al. 2017, section 3.3): the masks of candidates
are added in the image, and the box is fitted to the sum. `average_masks` does the same for Mask R-CNN, but boxes do not
change, and the other masks are resampled in the frame of the detection.

Letters: B images, N candidates, D detections, K classes, m the side of a mask in its box, U candidates that vote,
h x w pixels of a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rcnn.ops.boxes import box_iou, gather_boxes
from rcnn.ops.opaque import opaque_op

TILE = 128  # side of the tiles that are drawn, pixels
PAIRS_AT_A_TIME = 4096  # pairs of a detection and a voter that are processed together for the new masks
VALUES_AT_A_TIME = 2**23  # values of resampled masks in memory at a time


@opaque_op
def vote_masks(
    boxes: Tensor,
    masks: Tensor,
    weights: Tensor,
    sizes: Tensor,
    threshold: float,
    at_least: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes and masks of detections from weighted votes of candidates, in pixels of the image.

    Each candidate's mask is resized to its box rounded to whole pixels (bilinear, as OpenCV's resize) and binarized at
    the threshold. The canvas of a detection is the weighted sum of these masks. Its box is the tight box around the
    canvas values that reach the threshold; its mask is the canvas inside that box, resized to m x m. No image is drawn
    as a whole: boxes are computed from tiles, and masks from the pixels they need, so memory does not grow with the
    image.

    Args:
        boxes: (B, N, 4) float xyxy pixels of the image, within it.
        masks: (B, N, m, m) float in [0, 1], in the frames of their boxes.
        weights: (B, D, N) float, the weight of each candidate's vote; 0: no vote.
        sizes: (B, 2) int64, (height, width) of the images.
        threshold: of masks and of canvases, above 0.
        at_least: mask values equal to the threshold are also set; canvas values equal to it always are.

    Returns:
        boxes: (B, D, 4) float32, integers; 0 where nothing reaches the threshold.
        masks: (B, D, m, m) float32, sums of votes.
        found: (B, D) bool, whether anything reaches the threshold.
    """
    if threshold <= 0:
        raise ValueError(f"threshold is {threshold}; expected more than 0, the value outside a mask")
    batch, detections, _ = weights.shape
    fitted = boxes.new_zeros((batch, detections, 4), dtype=torch.float32)
    voted = boxes.new_zeros((batch, detections, *masks.shape[2:]), dtype=torch.float32)
    found = torch.zeros((batch, detections), dtype=torch.bool, device=boxes.device)
    for image, size in enumerate(sizes.tolist()):
        used = (weights[image] > 0).any(0).nonzero()[:, 0]
        edges = boxes[image, used].float().round()  # (U, 4)
        share, drawn = weights[image][:, used].float(), masks[image, used].float()
        fitted[image] = _fit_boxes(edges, drawn, share, size, threshold, at_least)
        found[image] = fitted[image, :, 2] > 0
        voted[image] = _read_masks(edges, drawn, share, fitted[image], threshold, at_least)
    return fitted, voted, found


def _fit_boxes(
    edges: Tensor, masks: Tensor, weights: Tensor, size: list[int], threshold: float, at_least: bool
) -> Tensor:
    """The tight half-open box (D, 4) around the values of each canvas that reach the threshold; zeros if none does."""
    height, width = size
    detections, device = len(weights), edges.device
    low = torch.full((detections, 2), float(max(height, width)), device=device)  # x, y of the first pixel
    high = torch.zeros((detections, 2), device=device)  # one past the last
    if len(edges):
        x_first, y_first = edges[:, :2].amin(0).clamp(min=0).long().tolist()
        x_last, y_last = edges[:, 2:].amax(0).long().tolist()
        for top in range(y_first, min(y_last, height), TILE):
            for left in range(x_first, min(x_last, width), TILE):
                y = torch.arange(top, min(top + TILE, y_last, height), device=device)
                x = torch.arange(left, min(left + TILE, x_last, width), device=device)
                touching = (edges[:, 0] < x[-1] + 1) & (edges[:, 2] > left) & (edges[:, 1] < y[-1] + 1)
                voters = (touching & (edges[:, 3] > top)).nonzero()[:, 0]
                rows = (weights[:, voters] > 0).any(1).nonzero()[:, 0]
                if len(rows) == 0:
                    continue
                part, count = edges[voters], len(voters)
                bits = _draw(part, masks[voters], y.expand(count, -1), x.expand(count, -1), threshold, at_least)
                canvas = weights[rows][:, voters] @ bits.flatten(1)
                hit = canvas.view(len(rows), len(y), len(x)) >= threshold  # (d, h, w)
                for axis, (positions, any_hit) in enumerate(((x, hit.any(1)), (y, hit.any(2)))):
                    first = torch.where(any_hit, positions, 2**24).amin(1).float()
                    last = torch.where(any_hit, positions + 1, 0).amax(1).float()
                    low[rows, axis] = torch.minimum(low[rows, axis], first)
                    high[rows, axis] = torch.maximum(high[rows, axis], last)
    fitted = torch.cat([low, high], 1)
    return torch.where((high > 0).all(1, keepdim=True), fitted, 0.0)


def _read_masks(
    edges: Tensor, masks: Tensor, weights: Tensor, boxes: Tensor, threshold: float, at_least: bool
) -> Tensor:
    """The part of each canvas inside its box (D, 4), resized to (D, m, m). Only pixels that this reads are drawn."""
    side, device = masks.shape[-1], masks.device
    target = torch.arange(side, device=device).expand(len(boxes), -1)
    spans = [boxes[:, 2 + axis] - boxes[:, axis] for axis in (0, 1)]  # width, height
    positions = [_source(target, torch.zeros_like(span), torch.full_like(span, side), span) for span in spans]
    points = []  # x and y of the pixels read: the lower of each sample, then the upper (D, 2m)
    for axis, (lower, _) in enumerate(positions):
        upper = torch.minimum(lower + 1, (spans[axis][:, None].long() - 1).clamp(min=0))
        points.append(torch.cat([lower, upper], 1) + boxes[:, axis, None].long())
    canvas = masks.new_zeros((len(boxes), 2 * side, 2 * side))
    pairs = ((weights > 0) & (boxes[:, 2] > 0)[:, None]).nonzero()
    for owner, voter in (chunk.unbind(1) for chunk in pairs.split(PAIRS_AT_A_TIME)):
        bits = _draw(edges[voter], masks[voter], points[1][owner], points[0][owner], threshold, at_least)
        canvas.index_add_(0, owner, bits * weights[owner, voter][:, None, None])
    (_, across), (_, down) = positions
    lines = canvas[:, :, :side] * (1 - across)[:, None] + canvas[:, :, side:] * across[:, None]  # (D, 2m, m)
    return lines[:, :side] * (1 - down)[:, :, None] + lines[:, side:] * down[:, :, None]


def _draw(edges: Tensor, masks: Tensor, y: Tensor, x: Tensor, threshold: float, at_least: bool) -> Tensor:
    """1.0 where the masks (U, m, m), resized to whole-pixel `edges` (U, 4), are set, at rows (U, h), columns (U, w)."""
    side = masks.shape[-1]
    across = _resize_weights(x, edges[:, 0], edges[:, 2], side)  # (U, m, w)
    down = _resize_weights(y, edges[:, 1], edges[:, 3], side)  # (U, m, h)
    values = torch.bmm(down.transpose(1, 2), torch.bmm(masks, across))  # (U, h, w)
    return values.ge_(threshold) if at_least else values.gt_(threshold)


def _resize_weights(pixels: Tensor, start: Tensor, end: Tensor, side: int) -> Tensor:
    """Bilinear weights (U, side, n) of `pixels` (U, n) in a row of `side` cells over [start, end); zeros outside.

    So a mask is 0 there, which is below every allowed threshold.
    """
    length = (end - start).clamp(min=1)
    lower, share = _source(pixels, start, length, torch.full_like(length, side))
    inside = ((pixels >= start[:, None]) & (pixels < end[:, None])).float()
    weights = torch.zeros((len(pixels), side, pixels.shape[1]), device=pixels.device)
    weights.scatter_add_(1, lower[:, None], ((1 - share) * inside)[:, None])
    weights.scatter_add_(1, (lower + 1).clamp(max=side - 1)[:, None], (share * inside)[:, None])
    return weights


def _source(pixels: Tensor, start: Tensor, length: Tensor, side: Tensor) -> tuple[Tensor, Tensor]:
    """The lower of the two cells (U, n) int64 that each pixel interpolates, and the weight of the upper, as in OpenCV.

    `side` (U,) cells are stretched over `length` (U,) pixels from `start` (U,); beyond the outermost centres, the
    border's value is used.
    """
    scale = side.double() / length.double().clamp(min=1)
    at = ((pixels - start[:, None] + 0.5) * scale[:, None] - 0.5).float()
    lower = at.floor()
    top = (side[:, None] - 1).clamp(min=0)
    share = torch.where((lower < 0) | (lower >= top), 0.0, at - lower)
    return torch.minimum(lower.clamp(min=0), top).long(), share


@vote_masks.register_fake
def _(
    boxes: Tensor, masks: Tensor, weights: Tensor, sizes: Tensor, threshold: float, at_least: bool
) -> tuple[Tensor, Tensor, Tensor]:
    shape = weights.shape[:2]
    return (
        boxes.new_empty((*shape, 4), dtype=torch.float32),
        boxes.new_empty((*shape, *masks.shape[2:]), dtype=torch.float32),
        boxes.new_empty(shape, dtype=torch.bool),
    )


def vote_weights(
    boxes: Tensor, scores: Tensor, valid: Tensor, kept: Tensor, labels: Tensor, kept_valid: Tensor, iou: float
) -> Tensor:
    """The weight (B, D, N) of each candidate's vote for each detection; the sum over N is 1 for valid detections.

    Candidates with an IoU of at least `iou` vote, weighted by their probability of the detection's class.

    Args:
        boxes: (B, N, 4) xyxy pixels, half-open, of candidates; the detections are among them.
        scores: (B, N, K) probabilities.
        valid: (B, N) bool.
        kept: (B, D) int64 into N, the candidates that are detections.
        labels: (B, D) int64 in [0, K), the class of each detection.
        kept_valid: (B, D) bool.
        iou: lowest IoU with a detection at which a candidate votes.
    """
    kept_boxes = gather_boxes(boxes, kept)  # (B, D, 4)
    voters = (box_iou(kept_boxes, boxes) >= iou) & valid[:, None] & kept_valid[..., None]  # (B, D, N)
    of_class = scores.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, scores.shape[1]))  # (B, D, N)
    votes = torch.where(voters, of_class, 0.0)  # not `of_class * voters`: scores of invalid candidates may be NaN
    return votes / votes.sum(-1, keepdim=True).clamp(min=torch.finfo(votes.dtype).tiny)


def average_masks(masks: Tensor, boxes: Tensor, scores: Tensor, labels: Tensor, valid: Tensor, iou: float) -> Tensor:
    """Mask R-CNN's masks (B, D, m, m), each averaged with the masks of its class with a box IoU of at least `iou`.

    Masks are weighted by their `scores` (B, D). The other masks are sampled bilinearly at the centres of the
    detection's cells, and are 0 outside their `boxes` (B, D, 4), xyxy pixels. `labels` (B, D) int64, `valid` (B, D)
    bool.
    """
    batch, detections, side = masks.shape[:3]
    same = (labels[:, :, None] == labels[:, None]) & valid[:, :, None] & valid[:, None]
    votes = torch.where(same & (box_iou(boxes, boxes) >= iou), scores[:, None], 0.0)  # (B, D, voter)
    votes = votes / votes.sum(-1, keepdim=True).clamp(min=torch.finfo(votes.dtype).tiny)
    rows = max(1, VALUES_AT_A_TIME // max(1, batch * detections * side * side))
    averaged = [
        (_read_in(masks, boxes, frames) * weights[..., None, None]).sum(2)
        for frames, weights in zip(boxes.split(rows, 1), votes.split(rows, 1), strict=True)
    ]
    return torch.cat(averaged, 1).to(masks.dtype)


def _read_in(masks: Tensor, boxes: Tensor, frames: Tensor) -> Tensor:
    """Every mask (B, D, m, m) in the frame of each of the boxes (B, d, 4): (B, d, D, m, m)."""
    side = masks.shape[-1]
    centres = (torch.arange(side, device=masks.device) + 0.5) / side
    samples = []
    for axis in (1, 0):
        start, extent = boxes[..., axis], boxes[..., axis + 2] - boxes[..., axis]  # (B, D)
        frame = frames[..., axis, None] + centres * (frames[..., axis + 2] - frames[..., axis])[..., None]  # (B, d, m)
        part = (frame[:, :, None] - start[:, None, :, None]) / extent.clamp(min=1e-6)[:, None, :, None]
        position = (part * side - 0.5).clamp(0, side - 1)  # (B, d, D, m) in cells of the mask that is read
        nearness = 1 - (position[..., None] - torch.arange(side, device=masks.device)).abs()
        samples.append(nearness.clamp(min=0) * ((part >= 0) & (part <= 1))[..., None])  # (B, d, D, m, m)
    down, across = samples
    return down @ (masks[:, None].float() @ across.transpose(-1, -2))
