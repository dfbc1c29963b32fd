"""Draw detections or ground-truth objects on their image.

Boxes are xyxy in pixels of the given image. Memory: the image twice, and one object's mask at a time.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from torch import Tensor

from rcnn.arguments import real_number, require_one_of, require_switches, whole_number
from rcnn.drawing.fonts import describe_missing, missing_characters
from rcnn.drawing.labels import NAMES_PER_SIDE, LabelWriter
from rcnn.drawing.palette import Colour, object_colour
from rcnn.ops.masks import PastedMask

ColourBy: TypeAlias = Literal["instance", "class"]  # objects of different colours, or classes
OPACITY = 0.45  # weight of the object's colour in a masked pixel
_MAX_NAME = 32  # characters of a name in a picture
MAX_CAPTION = 60  # characters of a caption
LARGE = 3000  # pixels, the square root of the area of an image; larger ones are drawn on by the size of their objects
WIDTHS_PER_POSE = 40  # widths of a line of keypoints in the square root of the area of their box, at least
LEGIBLE = 1150  # pixels, the same of a picture of 1333 x 1000
FAR = 10  # sides of the image: keypoints are drawn up to this far away, because Pillow draws whole lines
_STRIP = 1 << 20  # pixels blended at a time

# Pairs of COCO's 17 keypoints of a person that are connected by a line.
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
    captions: Sequence[str] | None = None,
    masks: Iterable[PastedMask | None] | None = None,
    keypoints: npt.ArrayLike | None = None,
    skeleton: Sequence[tuple[int, int]] = PERSON_SKELETON,
    keypoint_score: float = 0.0,
    contour: bool = False,
    colour_by: ColourBy = "instance",
    with_names: bool = True,
    width: int | None = None,
) -> Image.Image:
    """A copy of `image` with its D objects drawn on it: masks, boxes, keypoints and names.

    `image`: uint8 RGB, a tensor (3, H, W) or an array (H, W, 3). `boxes` (D, 4) xyxy; `labels` (D,): indices into
    `names`; `scores` (D,) for detections; `captions` (D,) replace the names, unless they are empty. `keypoints`
    (D, J, 3) x, y, visibility or score: those with a third number above `keypoint_score` are drawn. `masks` yields one
    mask per object, in order, and is read one at a time; parts outside the image are not drawn. `contour` draws the
    outline of a mask instead of its area. The colour depends on the index of the object or on its class (`colour_by`),
    and is the same in every run.

    `width`: of the lines, pixels; by default, it depends on the image size, as that of the names does
    (`scale_for_objects`); keypoints of small objects are smaller. `with_names=False` draws no names. Names stay inside
    the image, and no name covers another one or, if there is room, a small object; a name that has no room at its box
    is not drawn. A warning tells if no font has a character of `names`. Raises ValueError for an image of another type,
    or another number of labels than of boxes.
    """
    canvas = _rgb(image).copy()
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    count = len(corners)
    if len(labels) != count:
        raise ValueError(f"{count} boxes but {len(labels)} labels; expected one label per box")
    colours = [object_colour(int(labels[row]) if colour_by == "class" else row) for row in range(count)]
    scale = scale_for_objects(canvas.shape[0], canvas.shape[1], corners)
    width = width or line_width(canvas.shape[0], canvas.shape[1], scale)
    if masks is not None:
        for pasted, ink in zip(masks, colours, strict=True):
            if pasted is not None:
                _draw_mask(canvas, pasted, ink, width, contour)
    picture = Image.fromarray(canvas)
    pen = ImageDraw.Draw(picture)
    largest_first = np.argsort(-(corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1]), kind="stable")
    for row in largest_first:
        _draw_box(pen, _near(picture, corners[row]), colours[row], width)
    if keypoints is not None and count:
        for row, points in enumerate(np.array(keypoints, dtype=np.float64).reshape(count, -1, 3)):
            points[:, 2] -= keypoint_score
            points[:, :2] = points[:, :2].clip(-FAR * max(picture.size), FAR * max(picture.size))
            side = math.sqrt(np.prod(np.maximum(corners[row, 2:] - corners[row, :2], 0)))
            own_width = min(width, max(1, round(side / WIDTHS_PER_POSE)))
            _draw_keypoints(pen, points, skeleton, colours[row], own_width)
    if not with_names:
        return picture
    texts = [_short(names[int(label)]) for label in labels]
    if captions is not None:
        texts = [_short(caption, MAX_CAPTION) or name for caption, name in zip(captions, texts, strict=True)]
    if scores is not None:
        texts = [f"{text} {score:.2f}" for text, score in zip(texts, np.asarray(scores, dtype=np.float64), strict=True)]
    if missing := missing_characters((*names, *(captions or ()))):
        warnings.warn(describe_missing(missing), stacklevel=2)
    writer = LabelWriter(picture, scale, corners)
    for row in largest_first[::-1]:  # the smallest boxes first, because they have the fewest positions
        writer.write(texts[row], corners[row], colours[row])
    return picture


def checked_drawing(
    contour: bool, labels: bool, colour_by: str, keypoint_score: float, line_width: int | None
) -> tuple[float, int | None]:
    """`keypoint_score` and `line_width` of a picture as numbers of Python; a ValueError for a value out of range."""
    require_switches(contour=contour, labels=labels)
    require_one_of("colour_by", colour_by, get_args(ColourBy))
    lowest = real_number("keypoint_score", keypoint_score, "a number of 0 or more", 0)
    width = None if line_width is None else whole_number("line_width", line_width, "1 or more pixels, or None")
    return lowest, width


def draw_dashed_boxes(picture: Image.Image, boxes: npt.NDArray[np.floating]) -> None:
    """Draw boxes (N, 4), xyxy pixels, on `picture` as dashed lines, white on black."""
    pen, width = ImageDraw.Draw(picture), line_width(picture.height, picture.width)
    dash = 4 * width
    for box in np.asarray(boxes, dtype=np.float64):
        x0, y0, x1, y1 = _near(picture, box).tolist()
        pen.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=(0, 0, 0), width=width)
        for start in np.arange(x0, x1, 2 * dash).tolist():
            for y in (y0, y1 - width):
                end = max(start, min(start + dash, x1) - 1)
                pen.rectangle((start, y, end, y + width - 1), fill=(255, 255, 255))
        for start in np.arange(y0, y1, 2 * dash).tolist():
            for x in (x0, x1 - width):
                end = max(start, min(start + dash, y1) - 1)
                pen.rectangle((x, start, x + width - 1, end), fill=(255, 255, 255))


def pasted_mask_of(mask: npt.NDArray[np.bool_]) -> PastedMask | None:
    """A mask (H, W) of a whole image as its smallest rectangle with all set pixels; None if no pixel is set."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return None
    return PastedMask(int(columns[0]), int(rows[0]), mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])


def line_width(height: int, width: int, scale: float = 1.0) -> int:
    """Width of lines for an image of this size, pixels: visible, but hiding little; 2 at 640 x 480. Times `scale`."""
    return max(1, round(scale * math.sqrt(height * width) / 280))


def scale_for_objects(height: int, width: int, boxes: npt.NDArray[np.float64]) -> float:
    """Factor, up to 1, for the sizes of lines and names in a picture of this size with `boxes` (N, 4), xyxy pixels.

    Sizes that suit the whole picture hide the objects of very large images, which are often small: there, names are up
    to a third as high as the median object is long, but not smaller than in a picture of LEGIBLE pixels.
    """
    side = math.sqrt(height * width)
    if side < LARGE or not len(boxes):
        return 1.0
    sides = np.sqrt(np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1))
    return min(1.0, max(LEGIBLE, float(np.median(sides)) * NAMES_PER_SIDE / 3) / side)


def _short(name: str, longest: int = _MAX_NAME) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def _rgb(image: Tensor | npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The image as an array (H, W, 3)."""
    pixels = np.moveaxis(image.cpu().numpy(), 0, -1) if isinstance(image, Tensor) else image
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"image has shape {tuple(image.shape)} and type {image.dtype}; expected uint8 RGB: a tensor "
            "(3, height, width) or an array (height, width, 3)"
        )
    return pixels


def _draw_mask(canvas: npt.NDArray[np.uint8], pasted: PastedMask, ink: Colour, width: int, contour: bool) -> None:
    """Blend `ink` into `canvas` where the mask is set, and draw its edge; with `contour`, only the edge.

    The edge consists of the outermost `width` pixels of the mask; if the area is blended too, of half as many.
    """
    left, top, mask = pasted
    y0, x0 = max(0, top), max(0, left)
    y1, x1 = min(canvas.shape[0], top + mask.shape[0]), min(canvas.shape[1], left + mask.shape[1])
    if y1 <= y0 or x1 <= x0:
        return
    inside = mask[y0 - top : y1 - top, x0 - left : x1 - left]
    edge = inside & ~_eroded(inside, width if contour else max(1, width // 2))
    part = canvas[y0:y1, x0:x1]
    if not contour:
        blended = _blended(ink)  # of each value of a pixel: a table is faster than arithmetic on the chosen pixels
        height = max(1, _STRIP // (x1 - x0))
        for start in range(0, y1 - y0, height):
            strip, chosen = part[start : start + height], inside[start : start + height]
            for channel in range(3):
                np.copyto(strip[..., channel], blended[:, channel][strip[..., channel]], where=chosen)
    part[edge] = ink


def _blended(ink: Colour) -> npt.NDArray[np.uint8]:
    """(256, 3): the value of each channel where `ink` is blended into a pixel of value 0 to 255."""
    values = np.arange(256, dtype=np.float32)[:, None] * np.float32(1 - OPACITY)
    return np.rint(values + np.asarray(ink, dtype=np.float32) * np.float32(OPACITY)).astype(np.uint8)


def _eroded(mask: npt.NDArray[np.bool_], times: int) -> npt.NDArray[np.bool_]:
    """The mask without its outermost `times` pixels; pixels outside the array count as not set."""
    for _ in range(times):
        framed = np.pad(mask, 1)
        mask = mask & framed[:-2, 1:-1] & framed[2:, 1:-1] & framed[1:-1, :-2] & framed[1:-1, 2:]
    return mask


def _near(picture: Image.Image, box: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The part of a box (4,) up to one image away from the image; Pillow draws whole lines, even outside."""
    width, height = picture.size
    return np.clip(box, [-width, -height] * 2, [2 * width, 2 * height] * 2)


def _draw_box(pen: ImageDraw.ImageDraw, box: npt.NDArray[np.float64], ink: Colour, width: int) -> None:
    # x2 and y2 of a box are the end of its last pixel; Pillow's rectangle includes its last pixel.
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
    """Draw points (J, 3) as dots, and a line between two points of the skeleton if both are visible."""
    for first, second in skeleton:
        if max(first, second) < len(points) and points[first, 2] > 0 and points[second, 2] > 0:
            pen.line((*points[first, :2], *points[second, :2]), fill=ink, width=width)
    radius = 1.5 * width
    for x, y, visible in points:
        if visible > 0:
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=ink, outline=(255, 255, 255))
