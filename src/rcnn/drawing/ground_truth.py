"""The ground truth of an image, drawn: boxes, masks, keypoints and names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from rcnn.data.records import ImageRecord
from rcnn.data.segmentations import Segmentation
from rcnn.data.skeletons import HALF_PIXEL
from rcnn.drawing.pictures import PERSON_SKELETON, draw_dashed_boxes, draw_objects, pasted_mask_of
from rcnn.ops.coco_backend import as_rle, rle_mask
from rcnn.ops.masks import PastedMask


def draw_ground_truth(
    image: Tensor,
    record: ImageRecord,
    classes: Sequence[str],
    *,
    masks: bool = True,
    keypoints: bool = True,
    skeleton: Sequence[tuple[int, int]] = PERSON_SKELETON,
) -> Image.Image:
    """The objects of `record` drawn on its image (3, H, W; uint8 RGB): boxes, and masks and keypoints if it has them.

    Ignored objects (crowds and difficult objects) are drawn as dashed boxes. An object with referring expressions is
    labelled with the first one instead of its class name.
    """
    shown = np.flatnonzero(~record.ignored)
    points = record.keypoints[shown] + HALF_PIXEL if keypoints and record.keypoints is not None else None
    size = (record.height, record.width)
    outlines = [pasted_outline(record.segmentations[i], size) for i in shown.tolist()] if masks else None
    picture = draw_objects(
        image,
        record.boxes[shown],
        record.labels[shown],
        classes,
        captions=None if record.expressions is None else [_caption(record.expressions[i]) for i in shown.tolist()],
        masks=outlines,
        keypoints=points,
        skeleton=skeleton,
        colour_by="instance" if len(classes) == 1 else "class",
    )
    draw_dashed_boxes(picture, record.boxes[record.ignored])
    return picture


def _caption(expressions: Sequence[str]) -> str:
    return expressions[0] if expressions else ""


def pasted_outline(segmentation: Segmentation, size: tuple[int, int]) -> PastedMask | None:
    """The mask of an object in an image of `size` (height, width); None if it has no outline, only a box.

    Polygons may be arrays, or lists as in a results file.
    """
    if not segmentation:
        return None
    outline = segmentation if isinstance(segmentation, dict) else [np.asarray(part).tolist() for part in segmentation]
    return pasted_mask_of(rle_mask(as_rle(outline, *size)))
