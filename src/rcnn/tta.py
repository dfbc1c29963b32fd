"""Test-time augmentation: an image seen at several sizes and mirrored, and what was found put together.

    predictor = AugmentedPredictor.from_checkpoint("runs/balloons", scales=(640, 800, 960))

Boxes of all views compete in one suppression; masks and keypoint maps of those that stay are averaged over the views
(Detectron, test_time_aug; He et al. 2017, appendix A).

Letters: V views of one image, N boxes of all views, D detections, m the side of a mask in its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcnn.data.images import read_image
from rcnn.data.loading import pad_images
from rcnn.data.transforms import resize_shortest
from rcnn.models import Detector
from rcnn.ops.keypoints import decode_keypoints
from rcnn.ops.nms import nms
from rcnn.predictor import ImageDetections, Predictor, rescale, to_original
from rcnn.structures import Detections, ImageBatch

MOST_SIDE = 4000  # pixels of a view's longer side, whatever is asked for


@dataclass(frozen=True, kw_only=True)
class View:
    """An image as the network saw it once, and what was found there."""

    images: ImageBatch  # of one image
    features: dict[str, Tensor]
    found: Detections  # (1, D) in pixels of the view, mirrored as it is
    scale: Tensor  # (4,) what x, y, x, y of the view are multiplied by to be those of the file
    mirrored: bool

    def mirror(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) of the view as they lie in the image that is not mirrored, or the other way round."""
        if not self.mirrored:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        width = self.images.sizes[0, 1]
        return torch.stack([width - x2, y1, width - x1, y2], -1)


class AugmentedPredictor(Predictor):
    """A predictor that looks at each image several times: once for each of `scales`, with `flip` once more mirrored."""

    def __init__(self, detector: Detector, *, scales: Sequence[int] = (), flip: bool = True, **settings: Any) -> None:
        """`scales` are shorter sides, pixels; none given: the checkpoint's own. `settings` as of `Predictor`."""
        super().__init__(detector, **settings)
        if self.config.input.canvas:
            raise ValueError("input.canvas fixes the size of the input: this model cannot look at others, or mirrored")
        if any(side < 1 for side in scales):
            raise ValueError(f"scales are {tuple(scales)}, wanted shorter sides in pixels")
        self.scales = tuple(scales) or (self.config.input.min_size,)
        self.mirrors = (False, True) if flip else (False,)

    def prepare(self, source: str | Path | bytes | Tensor) -> tuple[Tensor, tuple[int, int]]:
        """An image (3, h, w) as it is, and its (height, width): the views are made when it is looked at."""
        image = source if isinstance(source, Tensor) else read_image(source)
        return image, (image.shape[1], image.shape[2])

    def detect(self, images: Sequence[Tensor], originals: Sequence[tuple[int, int]]) -> list[ImageDetections]:
        """The detections in `images` (3, h, w), one after the other."""
        with torch.inference_mode():
            return [self._detect(image, size) for image, size in zip(images, originals, strict=True)]

    def _detect(self, image: Tensor, original: tuple[int, int]) -> ImageDetections:
        views = [self._view(image, side, mirrored) for side in self.scales for mirrored in self.mirrors]
        merged = self._merge(views)  # in pixels of the file
        if self.detector.mask_head is not None:
            merged = replace(merged, masks=self._masks(views, merged))
        if self.detector.keypoint_head is not None:
            merged = replace(merged, keypoints=self._keypoints(views, merged))
        return to_original(merged.to("cpu"), 0, original, original, self.config)

    def _view(self, image: Tensor, side: int, mirrored: bool) -> View:
        settings = self.config.input
        longest = min(MOST_SIDE, round(settings.max_size * side / settings.min_size))
        settings = replace(settings, min_size=side, max_size=max(side, longest))
        resized = resize_shortest(image, side, settings.max_size, settings.resize, settings.size_rounding)
        size, original = (resized.shape[1], resized.shape[2]), (image.shape[1], image.shape[2])
        images = pad_images([resized.flip(-1) if mirrored else resized], settings.divisor, self.padding)
        images = replace(images, scales=torch.tensor([size[0] / original[0]])).to(self.device)
        x, y = rescale(settings, size, original)
        features = self.detector.features(images)
        return View(
            images=images,
            features=features,
            found=self.detector.find(features, images),
            scale=torch.tensor([x, y, x, y], device=self.device),
            mirrored=mirrored,
        )

    def _merge(self, views: Sequence[View]) -> Detections:
        """The best of all views' detections (1, D), boxes in pixels of the file; masks that came with them stay."""
        config = self.config
        boxes = torch.cat([view.mirror(view.found.boxes) * view.scale for view in views], 1)  # (1, N, 4)
        scores = torch.cat([view.found.scores for view in views], 1)
        labels = torch.cat([view.found.labels for view in views], 1)
        valid = torch.cat([view.found.valid for view in views], 1)
        threshold, most = config.box.selection.nms_iou, config.box.selection.max_detections
        if config.fcis is not None:
            threshold, most = config.fcis.nms_iou, config.fcis.max_detections
        elif config.proposals_only:
            threshold, most = config.rpn.proposals.nms_iou, config.rpn.proposals.post_nms
        groups = torch.zeros_like(labels) if config.box.selection.class_agnostic_nms else labels
        index, kept = nms(boxes, scores, groups, valid, threshold, most)
        masks = [_upright(view, view.found.masks) for view in views if view.found.masks is not None]
        return Detections(
            boxes=boxes.gather(1, index[..., None].expand(-1, -1, 4)) * kept[..., None],
            scores=scores.gather(1, index) * kept,
            labels=labels.gather(1, index) * kept,
            valid=kept,
            masks=torch.cat(masks, 1)[:, index[0]] * kept[..., None, None] if masks else None,
        )

    def _masks(self, views: Sequence[View], merged: Detections) -> Tensor:
        """Probabilities (1, D, m, m) of the merged boxes: the views' mean."""
        seen = [self.detector.outline(view.features, self._inside(view, merged), view.images) for view in views]
        masks = [
            _upright(view, found.masks) for view, found in zip(views, seen, strict=True) if found.masks is not None
        ]
        return torch.stack(masks).mean(0)

    def _keypoints(self, views: Sequence[View], merged: Detections) -> Tensor:
        """Keypoints (1, D, J, 3) in pixels of the file, found in the views' mean maps."""
        maps = torch.stack([self._maps(view, self._inside(view, merged)) for view in views]).mean(0)
        first = views[0]  # at whose size places are read off the maps, as without augmentation
        found = decode_keypoints(maps, merged.boxes / first.scale)  # (1, D, J, 4)
        points = torch.cat([found[..., :2] * first.scale[:2], found[..., 3:]], -1)
        return points * merged.valid[..., None, None]

    def _maps(self, view: View, inside: Detections) -> Tensor:
        """Keypoint logits (1, D, J, m, m) of a view, left and right as in the image that is not mirrored."""
        head = self.detector.keypoint_head
        if head is None:
            raise ValueError(f"{self.config.name} has no keypoint head")
        maps = head.maps(view.features, inside.boxes, inside.valid)
        if not view.mirrored:
            return maps
        other = list(range(maps.shape[2]))
        for left, right in head.config.flip_pairs:
            other[left], other[right] = right, left
        return maps.flip(-1)[:, :, other]

    def _inside(self, view: View, merged: Detections) -> Detections:
        """The merged detections with their boxes in pixels of a view."""
        boxes = view.mirror(merged.boxes / view.scale) * merged.valid[..., None]
        return replace(merged, boxes=boxes, masks=None)


def _upright(view: View, masks: Tensor) -> Tensor:
    """Masks (1, D, m, m) of a view as they are in the image that is not mirrored."""
    return masks.flip(-1) if view.mirrored else masks
