"""Detections, or true objects, drawn on the photograph they belong to.

Boxes are xyxy in pixels of the image given here. Memory is the image twice, and one object's mask at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from rcnn.drawing.palette import Colour, colour, readable_on
from rcnn.ops.masks import Region

Edge = tuple[float, float, float, float]

OPACITY = 0.45  # how much of a masked pixel is the object's colour
_STRIP = 1 << 20  # pixels blended at a time

# Pairs of COCO's 17 keypoints of a person that are joined by a line.
PERSON_SKELETON = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8)),
    *((7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)


def draw_objects(
    image: Tensor | npt.NDArray[np.uint8],
    boxes: npt.ArrayLike,
    labels: Sequence[int] | npt.NDArray[np.integer],
    names: Sequence[str],
    *,
    scores: npt.ArrayLike | None = None,
    masks: Iterable[Region | None] | None = None,
    keypoints: npt.ArrayLike | None = None,
    skeleton: Sequence[tuple[int, int]] = PERSON_SKELETON,
    keypoint_score: float = 0.0,
    contour: bool = False,
    colour_by: Literal["instance", "class"] = "instance",
) -> Image.Image:
    """A copy of `image`, uint8 RGB, a tensor (3, H, W) or an array (H, W, 3), with its D objects drawn on it.

    `boxes` (D, 4), `labels` (D,) into `names`, `scores` (D,) where they are detections, `keypoints` (D, J, 3) whose
    third number, visibility or score, is above `keypoint_score` where the point is to be drawn. `masks` gives one
    region an object, in order, and is read one at a time; parts outside the image are left out. `contour` draws the
    outline of a mask in place of its area. Colours go by place among the objects, or by class; either way they are the
    same from run to run.
    Labels stay inside the image, and are left out of an image too small to hold one.
    """
    canvas = _rgb(image).copy()
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(corners)
    if len(labels) != count:
        raise ValueError(f"{count} boxes but {len(labels)} labels: wanted one an object")
    colours = [colour(int(labels[row]) if colour_by == "class" else row) for row in range(count)]
    width = line_width(canvas.shape[0], canvas.shape[1])
    if masks is not None:
        for region, ink in zip(masks, colours, strict=True):
            if region is not None:
                _draw_mask(canvas, region, ink, width, contour)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    largest_first = np.argsort(-(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), kind="stable")
    for row in largest_first:
        _draw_box(pen, corners[row], colours[row], width)
    if keypoints is not None and count:
        for row, points in enumerate(np.array(keypoints, dtype=np.float64).reshape(count, -1, 3)):
            points[:, 2] -= keypoint_score
            _draw_keypoints(pen, points, skeleton, colours[row], width)
    texts = [names[int(label)] for label in labels]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, np.asarray(scores, dtype=np.float64), strict=True)]
    writer = LabelWriter(pen, picture.size)
    for row in largest_first[::-1]:  # the smallest first: they have the least choice of place
        writer.write(texts[row], corners[row], colours[row])
    return picture


def region_of(mask: npt.NDArray[np.bool_]) -> Region | None:
    """The part of a mask (H, W) of a whole image that holds something; None where nothing does."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return Region(int(columns[0]), int(rows[0]), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def line_width(height: int, width: int) -> int:
    """Pixels of a line that is seen, and hides little, in an image of this size: 2 at 640 x 480."""
    return max(1, round(math.sqrt(height * width) / 280))


def _rgb(image: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image as an array (H, W, 3)."""
    pixels = np.moveaxis(image.cpu().numpy(), 0, -1) if isinstance(image, Tensor) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"the image is {tuple(image.shape)} of {image.dtype}, wanted RGB of uint8: a tensor (3, height, width), "
            "or an array (height, width, 3)"
        )
    return pixels


def _draw_mask(canvas: npt.NDArray[np.uint8], region: Region, ink: Colour, width: int, contour: bool) -> None:
    """Blends `ink` into `canvas` where the region is set, and draws its edge; with `contour` the edge alone.

    The edge is `width` pixels of the mask itself, half of them where its area is blended too.
    """
    left, top, mask = region
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(canvas.shape[0], top + mask.shape[0]), min(canvas.shape[1], left + mask.shape[1])
    if y1 <= y0 or x1 <= x0:
        return
    inside = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    edge = inside & ~_eroded(inside, width if contour else max(1, width // 2))
    part = canvas[y0:y1, x0:x1]
    if not contour:
        height = max(1, _STRIP // (x1 - x0))
        for start in range(0, y1 - y0, height):
            strip, chosen = part[start : start + height], inside[start : start + height]
            blend = strip[chosen] * np.float32(1 - OPACITY) + np.asarray(ink, dtype=np.float32) * np.float32(OPACITY)
            strip[chosen] = np.rint(blend).astype(np.uint8)
    part[edge] = ink


def _eroded(mask: npt.NDArray[np.bool_], times: int) -> npt.NDArray[np.bool_]:
    """The mask without its outermost `times` pixels; what lies beyond the array counts as not set."""
    for _ in range(times):
        framed = np.pad(mask, 1)
        mask = mask & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask


def _draw_box(pen: ImageDraw.ImageDraw, box: npt.NDArray[np.float64], ink: Colour, width: int) -> None:
    # A box ends where its last pixel ends; Pillow's rectangle names its last pixel.
    x0, y0 = math.floor(box[0]), math.floor(box[1])
    x1, y1 = max(x0, math.ceil(box[2]) - 1), max(y0, math.ceil(box[3]) - 1)
    pen.rectangle((x0, y0, x1, y1), outline=ink, width=width)


def _draw_keypoints(
    pen: ImageDraw.ImageDraw,
    points: npt.NDArray[np.float64],
    skeleton: Sequence[tuple[int, int]],
    ink: Colour,
    width: int,
) -> None:
    """Points (J, 3) as dots, those of the skeleton that are both seen joined by lines."""
    for first, second in skeleton:
        if max(first, second) < len(points) and points[first, 2] > 0 and points[second, 2] > 0:
            pen.line((*points[first, :2], *points[second, :2]), fill=ink, width=width)
    radius = 1.5 * width
    for x, y, seen in points:
        if seen > 0:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink, outline=(255, 255, 255))


class LabelWriter:
    """Puts names beside boxes, within the image, hiding no name written before if there is such a place."""

    def __init__(self, pen: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
        self.pen = pen
        self.width, self.height = size
        points = max(10, round(math.sqrt(self.width * self.height) / 42))
        self.font = ImageFont.load_default(size=points)
        self.padding = max(1, points // 6)
        self.taken: list[Edge] = []  # where names were written: left, top, right, bottom

    def write(self, text: str, box: npt.NDArray[np.float64], ink: Colour) -> None:
        """`text` beside `box` (xyxy), on a ground of `ink`; nothing where the image is too small for it."""
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=self.font)
        # One height for all names, whether or not they have letters that reach up or down.
        ascent, descent = self.font.getmetrics() if isinstance(self.font, ImageFont.FreeTypeFont) else (bottom - top, 0)
        wide, high = right - left + 2 * self.padding, ascent + descent + self.padding
        if wide > self.width or high > self.height:
            return
        inset = min(max(0.0, box[1]), self.height - high)  # always inside, whatever the box
        tops = [y for y in (box[1] - high, box[1], box[3], box[3] - high) if 0 <= y <= self.height - high]
        lefts = [min(max(0.0, edge), self.width - wide) for edge in (box[0], box[2] - wide)]
        places = [(float(math.floor(x)), float(math.floor(y))) for x in lefts for y in [*tops, inset]]
        x, y = min(places, key=lambda place: self._hidden((*place, place[0] + wide, place[1] + high)))
        self.taken.append((x, y, x + wide, y + high))
        self.pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=ink)
        self.pen.text((x + self.padding - left, y + self.padding / 2), text, fill=readable_on(ink), font=self.font)

    def _hidden(self, place: Edge) -> float:
        """Pixels of names written before that a name here would hide."""
        return sum(
            max(0.0, min(place[2], other[2]) - max(place[0], other[0]))
            * max(0.0, min(place[3], other[3]) - max(place[1], other[1]))
            for other in self.taken
        )
