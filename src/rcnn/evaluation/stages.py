"""One picture of the stages of a model on an image: ground truth, proposals, their scores, detections.

It shows the same as tensorpack's `predict.py --visualize`. An object has the same colour in all four panels.

Letters: G objects of the ground truth, P proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rcnn.arguments import whole_number, wrong_type
from rcnn.data.loading import pad_images
from rcnn.data.messages import counted, few
from rcnn.data.records import ImageRecord
from rcnn.drawing.fonts import base_font
from rcnn.drawing.ground_truth import pasted_outline
from rcnn.drawing.labels import LabelWriter
from rcnn.drawing.pictures import draw_objects
from rcnn.ops.boxes import box_iou
from rcnn.prediction_arguments import require_score
from rcnn.predictor import Predictor

SHORTEST, LONGEST = 480, 1000  # of the longer side of a panel, pixels
MIN_IOU = 0.1  # a proposal is drawn for an object that it overlaps at least this much
SAME_IOU = 0.5  # a detection has the colour of the object that it overlaps at least this much
GAP = 4  # pixels between panels
MANY = 12  # more proposals than these have a label only at the best one of each object


@dataclass(frozen=True, kw_only=True)
class BestProposals:
    """The R proposals with the highest IoU with each object, ordered by object."""

    boxes: npt.NDArray[np.float32]  # (R, 4) xyxy, pixels of the image
    objectness: npt.NDArray[np.float32]  # (R,) probability that the box contains an object
    iou: npt.NDArray[np.float32]  # (R,) with the object
    objects: npt.NDArray[np.int64]  # (R,) index of the object, 0..G-1


def draw_stages(
    predictor: Predictor,
    record: ImageRecord,
    *,
    best: int = 3,
    score: float = 0.5,
    classes: Sequence[str] | None = None,
) -> Image.Image:
    """Four panels: ground truth, the `best` proposals of each object, their classes and scores, and the detections.

    The third panel shows the proposals themselves, not the boxes that the box head refines. A region proposal network
    has no third panel. Of more than 12 proposals, only the best one of each object has a label. Detections with a lower
    score than `score` are not drawn. `classes`: the names of the record's labels, `dataset.classes`; they must be those
    of the model (default: no check).

    Raises ValueError for labels or `classes` that the model does not have, for an exported file or a custom box head,
    which cannot score given boxes, for an image that cannot be read, and for `best` below 1.
    """
    if not isinstance(predictor, Predictor):
        raise wrong_type(predictor, "the predictor", "an rcnn.Predictor")
    if not isinstance(record, ImageRecord):
        raise wrong_type(record, "the record", "an ImageRecord, e.g. rcnn.open_dataset(DIR)[0]")
    best, score = whole_number("best", best, "1 or more proposals per object"), require_score(score)
    _require_classes(predictor, record, classes)
    pixels = record.read()
    shown = np.flatnonzero(~record.ignored)
    boxes, names = record.boxes[shown].astype(np.float32), [predictor.classes[label] for label in record.labels[shown]]
    size = (record.height, record.width)
    outlines = [record.segmentations[row] if predictor.config.has_masks else None for row in shown.tolist()]
    masks = [pasted_outline(outline, size) for outline in outlines]
    truth = draw_objects(pixels, boxes, [*range(len(shown))], names, masks=masks, colour_by="class")
    panels = [("Ground truth", truth)]
    found = best_proposals(predictor, pixels, boxes, best)
    captions = [f"{iou:.2f}, {p:.2f}" for iou, p in zip(found.iou, found.objectness, strict=True)]
    title = f"Best {counted(best, 'proposal')} of each object: IoU, objectness"
    panels.append((title, _panel(pixels, found, captions)))
    if predictor.detector.box_head is not None and len(found.boxes):
        scored = predictor.predict(pixels, boxes=found.boxes)
        captions = [f"{name} {value:.2f}" for name, value in zip(scored.names, scored.scores, strict=True)]
        panels.append(("Class and score of these proposals", _panel(pixels, found, captions)))
    result = predictor.predict(pixels, score=score)
    colours = _colours(result.boxes, boxes)
    drawn = draw_objects(
        pixels,
        result.boxes,
        colours,
        [""] * (max(colours, default=0) + 1),
        captions=result.names,
        scores=result.scores,
        masks=result.pasted_masks(),
        keypoints=result.keypoints,
        skeleton=predictor.skeleton,
        colour_by="class",
    )
    panels.append((f"Detections from score {score:g}", drawn))
    return _grid(panels)


def _require_classes(predictor: Predictor, record: ImageRecord, classes: Sequence[str] | None) -> None:
    """Raise ValueError if the labels of a record are not labels of the model, because its class names are drawn."""
    own = tuple(predictor.classes)
    if classes is not None and tuple(classes) != own:
        raise ValueError(
            f"the record has the classes {few(classes)}, but the model has {few(own)}; open the data set with "
            "classes=predictor.classes"
        )
    if len(record.labels) and not 0 <= record.labels.min() <= record.labels.max() < len(own):
        wrong = record.labels[(record.labels < 0) | (record.labels >= len(own))][0]
        raise ValueError(f"{record.path}: the record has label {wrong}; expected labels from 0 to {len(own) - 1}")


def best_proposals(
    predictor: Predictor, pixels: Tensor, boxes: npt.NDArray[np.float32], best: int = 3
) -> BestProposals:
    """For each object in `boxes` (G, 4; float xyxy, pixels of the image), the `best` proposals with the highest IoU.

    `pixels` (3, H, W) uint8 RGB: the image. Proposals with an IoU below MIN_IOU are skipped.
    """
    detector = predictor.detector
    resized, frame = predictor.prepare(pixels)
    batch = pad_images([resized], predictor.config.input.divisor, predictor.padding, [frame]).to(predictor.device)
    with torch.inference_mode():
        proposals = detector.rpn.predict(detector.features(batch), batch)
        found = detector.proposals_as_detections(proposals, batch).to("cpu")
    valid = found.valid[0].numpy()
    regions = frame.to_original(found.boxes[0].float().numpy())[valid]  # (P, 4)
    scores = found.scores[0].float().numpy()[valid]
    overlaps = box_iou(torch.from_numpy(boxes).reshape(-1, 4), torch.from_numpy(regions)).numpy()  # (G, P)
    order = np.argsort(-overlaps, axis=1, kind="stable")[:, :best]  # (G, best)
    iou = np.take_along_axis(overlaps, order, axis=1)
    objects, places = np.nonzero(iou >= MIN_IOU)
    rows = order[objects, places]
    return BestProposals(boxes=regions[rows], objectness=scores[rows], iou=iou[objects, places], objects=objects)


def _panel(pixels: Tensor, found: BestProposals, captions: Sequence[str]) -> Image.Image:
    """The proposals with their captions; of many, only the best proposal of each object has its caption."""
    _, best = np.unique(found.objects, return_index=True)
    labelled = {*best.tolist()} if len(found.objects) > MANY else {*range(len(found.objects))}
    shown = [caption if row in labelled else "" for row, caption in enumerate(captions)]
    no_names = [""] * (found.objects.max(initial=0) + 1)
    return draw_objects(pixels, found.boxes, found.objects, no_names, captions=shown, colour_by="class")


def _colours(boxes: npt.NDArray[np.float32], objects: npt.NDArray[np.float32]) -> list[int]:
    """For each box, the index of the object that it overlaps most; a box without one gets an index after these."""
    if not len(objects):
        return [*range(len(boxes))]
    overlaps = box_iou(torch.from_numpy(boxes), torch.from_numpy(objects)).numpy()
    nearest = overlaps.argmax(axis=1)
    is_same = overlaps.max(axis=1) >= SAME_IOU
    return [int(nearest[row]) if is_same[row] else len(objects) + row for row in range(len(boxes))]


def _grid(panels: list[tuple[str, Image.Image]]) -> Image.Image:
    """The panels with their titles, two per row."""
    width, height = panels[0][1].size
    scale = min(max(1.0, SHORTEST / max(width, height)), LONGEST / max(width, height))
    width, height = max(1, round(width * scale)), max(1, round(height * scale))
    strip = LabelWriter(Image.new("RGB", (width, height))).size + 10
    rows = -(-len(panels) // 2)
    grid = Image.new("RGB", (2 * width + GAP, rows * (height + strip) + GAP * (rows - 1)), (255, 255, 255))
    for place, (title, panel) in enumerate(panels):
        x, y = (place % 2) * (width + GAP), (place // 2) * (height + strip + GAP)
        font = ImageFont.truetype(base_font(), strip - 10)
        ImageDraw.Draw(grid).text((x + 4, y + 2), title, fill=(0, 0, 0), font=font)
        grid.paste(panel.resize((width, height), Image.Resampling.LANCZOS), (x, y + strip))
    return grid
