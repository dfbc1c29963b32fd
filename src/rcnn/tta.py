"""Test-time augmentation: predict at several sizes and with horizontal flips, and merge the results.

    predictor = AugmentedPredictor("runs/balloons", scales=(640, 800, 960))

The boxes of all views go through one non-maximum suppression; masks and keypoint heatmaps of the boxes that remain are
averaged over the views (Detectron's test_time_aug; He et al. 2017, appendix A).

Letters: V views of one image, N boxes of all views, D detections, m the side of a mask in its box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from rcnn.arguments import is_whole_number, require_switches
from rcnn.data.given_boxes import Boxes, GivenBoxes
from rcnn.data.image_inputs import Channels, ImageInput, as_image
from rcnn.data.images import MAX_PIXELS
from rcnn.data.loading import Padding, pad_images
from rcnn.models import Detector
from rcnn.models.heads.keypoint import KeypointHead
from rcnn.models.overrides import Overrides
from rcnn.ops.boxes import gather_boxes
from rcnn.ops.nms import nms
from rcnn.predictor import Predictor
from rcnn.preprocess import Frame, build_preprocessor
from rcnn.region_features import RegionFeatures
from rcnn.results import ImageDetections
from rcnn.runtime.devices import Device, Precision
from rcnn.structures import Detections, ImageBatch

MAX_SIDE = 4000  # limit of a view's longer side, pixels
NO_FEATURES = "features are not averaged by test-time augmentation; use Predictor (without --tta)"


@dataclass(frozen=True, kw_only=True)
class View:
    """One image resized, and perhaps flipped, for the network, and the detections in it."""

    images: ImageBatch  # of one image
    features: dict[str, Tensor]
    found: Detections  # (1, D) in pixels of the view, flipped if the view is
    back: Tensor  # (4,) factors from x, y, x, y of the view to those of the original image
    flipped: bool

    def flip(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4), xyxy pixels of the view, flipped horizontally if the view is; it is its own inverse."""
        if not self.flipped:
            return boxes
        x1, y1, x2, y2 = boxes.unbind(-1)
        width = self.images.sizes[0, 1]
        return torch.stack([width - x2, y1, width - x1, y2], -1)


class AugmentedPredictor(Predictor):
    """A predictor that runs each image once per size in `scales`, and again flipped with `flip`."""

    def __init__(
        self,
        detector: Detector | str | Path,
        *,
        scales: int | Iterable[int] = (),
        flip: bool = True,
        classes: str | Sequence[str] | None = None,
        device: Device = "auto",
        precision: Precision = "float32",
        padding: Padding = "exact",
        overrides: Overrides = (),
        allow: str | Sequence[str] = (),
    ) -> None:
        """`scales` are shorter sides in pixels (default: `input.min_size`); the other arguments as in `Predictor`.

        Raises ValueError for an exported file, for a model with `input.canvas` or soft NMS, and for scales out of
        range.
        """
        require_switches(flip=flip)
        super().__init__(
            detector,
            classes=classes,
            device=device,
            precision=precision,
            padding=padding,
            overrides=overrides,
            allow=allow,
        )
        self.detector  # noqa: B018  (ValueError for an exported file)
        if self.config.input.canvas:
            raise ValueError(
                f"input.canvas={self.config.input.canvas} fixes the input size of this model: test-time augmentation "
                "cannot change it; use Predictor (without --tta)"
            )
        selection = self.config.box.selection
        if self.config.fcis is None and not self.config.proposals_only and selection.nms != "hard":
            raise ValueError(
                f"box.selection.nms is {selection.nms}, but test-time augmentation merges the sizes and flips by hard "
                "NMS, which would undo soft NMS; set box.selection.nms=hard, or use Predictor (without --tta)"
            )
        sides = tuple(scales) if isinstance(scales, Iterable) else (scales,)
        if not all(is_whole_number(side) and 1 <= side <= MAX_SIDE for side in sides):
            raise ValueError(f"scales={scales!r}; expected shorter sides of 1 to {MAX_SIDE} pixels, e.g. (640, 800)")
        self.scales = tuple(map(int, sides)) or (self.config.input.min_size,)
        self.flips = (False, True) if flip else (False,)

    @classmethod
    @override
    def from_checkpoint(
        cls,
        path: str | Path,
        *,
        scales: int | Iterable[int] = (),
        flip: bool = True,
        device: Device = "auto",
        precision: Precision = "float32",
        padding: Padding = "exact",
        overrides: Overrides = (),
        allow: str | Sequence[str] = (),
    ) -> Self:
        """The predictor of a checkpoint, or of the best checkpoint of a run folder; arguments as in the constructor."""
        return cls(
            path,
            scales=scales,
            flip=flip,
            device=device,
            precision=precision,
            padding=padding,
            overrides=overrides,
            allow=allow,
        )

    @override
    def prepare(self, source: ImageInput) -> tuple[Tensor, Frame]:
        """An image (3, H, W) at its own size, and its frame; `detect` resizes and flips it."""
        image = as_image(source)
        size = image.shape[1], image.shape[2]
        return image, Frame(original=size, size=size, resized=size, to_original_scale=(1.0, 1.0))

    @override
    def detect(self, images: Sequence[Tensor], frames: Sequence[Frame], score: float = 0.0) -> list[ImageDetections]:
        """The detections in `images` (3, H, W), one after the other, of any score."""
        with torch.inference_mode():
            return [self._detect(image, frame) for image, frame in zip(images, frames, strict=True)]

    @override
    def score_boxes(
        self, images: Sequence[Tensor], frames: Sequence[Frame], given: Sequence[GivenBoxes]
    ) -> list[ImageDetections]:
        """Raises ValueError: not defined with test-time augmentation."""
        raise ValueError("given boxes cannot be scored with test-time augmentation; use Predictor (without --tta)")

    @override
    def features(
        self, image: ImageInput, boxes: Boxes, *, channels: Channels = "rgb", max_pixels: int = MAX_PIXELS
    ) -> RegionFeatures:
        """Raises ValueError: not defined with test-time augmentation."""
        raise ValueError(NO_FEATURES)

    @override
    def predict_with_features(
        self, image: ImageInput, boxes: Boxes, *, channels: Channels = "rgb", max_pixels: int = MAX_PIXELS
    ) -> tuple[ImageDetections, RegionFeatures]:
        """Raises ValueError: not defined with test-time augmentation."""
        raise ValueError(NO_FEATURES)

    def _detect(self, image: Tensor, frame: Frame) -> ImageDetections:
        views = [self._view(image, side, flipped) for side in self.scales for flipped in self.flips]
        merged = self._merge(views)  # in pixels of the original image
        if self.detector.mask_head is not None:
            merged = replace(merged, masks=self._masks(views, merged))
        if self.detector.keypoint_head is not None:
            merged = replace(merged, keypoints=self._keypoints(views, merged))
        return self.results(merged.to("cpu"), 0, frame)

    def _view(self, image: Tensor, side: int, flipped: bool) -> View:
        config = self.config.input
        longest = min(MAX_SIDE, round(config.max_size * side / config.min_size))
        config = replace(config, min_size=side, max_size=max(side, longest))
        resized, frame = build_preprocessor(config)(image)
        images = pad_images([resized.flip(-1) if flipped else resized], config.divisor, self.padding, [frame]).to(
            self.device
        )
        features = self.detector.features(images)
        return View(
            images=images,
            features=features,
            found=self.detector.detect_boxes(features, images),
            back=torch.tensor(frame.to_original_scale * 2, device=self.device),
            flipped=flipped,
        )

    def _merge(self, views: Sequence[View]) -> Detections:
        """The best detections (1, D) of all views, in pixels of the original image; with masks if `found` has them."""
        config = self.config
        boxes = torch.cat([view.flip(view.found.boxes) * view.back for view in views], 1)  # (1, N, 4)
        scores = torch.cat([view.found.scores for view in views], 1)
        labels = torch.cat([view.found.labels for view in views], 1)
        valid = torch.cat([view.found.valid for view in views], 1)
        threshold, limit = config.box.selection.nms_iou, config.box.selection.max_detections
        if config.fcis is not None:
            threshold, limit = config.fcis.nms_iou, config.fcis.max_detections
        elif config.proposals_only:
            threshold, limit = config.rpn.proposals.nms_iou, config.rpn.proposals.post_nms
        groups = torch.zeros_like(labels) if config.box.selection.class_agnostic_nms else labels
        index, kept = nms(boxes, scores, groups, valid, threshold, limit)
        masks = [_unflip(view, view.found.masks) for view in views if view.found.masks is not None]
        return Detections(
            boxes=gather_boxes(boxes, index) * kept[..., None],
            scores=scores.gather(1, index) * kept,
            labels=labels.gather(1, index) * kept,
            valid=kept,
            masks=torch.cat(masks, 1)[:, index[0]] * kept[..., None, None] if masks else None,
        )

    def _masks(self, views: Sequence[View], merged: Detections) -> Tensor:
        """Mask probabilities (1, D, m, m) of the merged boxes: the mean over the views."""
        found = [self.detector.predict_masks(view.features, self._in_view(view, merged), view.images) for view in views]
        masks = [_unflip(view, each.masks) for view, each in zip(views, found, strict=True) if each.masks is not None]
        return torch.stack(masks).mean(0)

    def _keypoints(self, views: Sequence[View], merged: Detections) -> Tensor:
        """Keypoints (1, D, J, 3) in pixels of the original image, located in the mean heatmaps of the views."""
        head = self._keypoint_head()
        heatmaps = torch.stack([self._heatmaps(view, self._in_view(view, merged)) for view in views]).mean(0)
        first = views[0]  # the maxima are located at its size, as without augmentation
        points = head.decode(heatmaps, merged.boxes / first.back, first.images)  # (1, D, J, 3)
        points = torch.cat([points[..., :2] * first.back[:2], points[..., 2:]], -1)
        return points * merged.valid[..., None, None]

    def _keypoint_head(self) -> KeypointHead:
        head = self.detector.keypoint_head
        if not isinstance(head, KeypointHead):
            raise ValueError(
                f"test-time augmentation needs keypoint heatmaps, and your own head {type(head).__name__} has none; "
                "use Predictor (without --tta)"
            )
        return head

    def _heatmaps(self, view: View, inside: Detections) -> Tensor:
        """Heatmaps (1, D, J, m, m) of a view, with left and right as in the image that is not flipped."""
        head = self._keypoint_head()
        heatmaps = head.detection_heatmaps(view.features, inside.boxes, inside.valid, view.images)
        if not view.flipped:
            return heatmaps
        other = list(range(heatmaps.shape[2]))
        for left, right in head.config.flip_pairs:
            other[left], other[right] = right, left
        return heatmaps.flip(-1)[:, :, other]

    def _in_view(self, view: View, merged: Detections) -> Detections:
        """The merged detections with their boxes in pixels of a view."""
        boxes = view.flip(merged.boxes / view.back) * merged.valid[..., None]
        return replace(merged, boxes=boxes, masks=None)


def _unflip(view: View, masks: Tensor) -> Tensor:
    """Masks (1, D, m, m) of a view as they are in the image that is not flipped."""
    return masks.flip(-1) if view.flipped else masks
