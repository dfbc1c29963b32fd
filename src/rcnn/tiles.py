"""Very large images: predict on overlapping tiles, and merge the detections of objects that tiles cut.

    result = predict_tiled(predictor, "orthophoto.tif", tile=1024)

Two detections of one class in two tiles are one object if, within the area that both tiles see,
 - their IoU is at least SAME_IOU, or
 - one of them is cut by its tile and at least COVERED of it lies inside the other.
Masks are compared if the model has masks, else boxes. The rule is transitive, so that the parts of an object in many
tiles become one. If some tiles contain the whole object, box and mask are those of the detection with the highest score
in these tiles; else they are the union of the parts. The score is the highest of all parts.

Letters: N detections of all tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from rcnn.arguments import real_number, whole_number, wrong_type
from rcnn.data.image_inputs import Channels, ImageInput, ImageSource, as_image
from rcnn.data.images import MAX_PIXELS
from rcnn.ops.masks import PastedMask
from rcnn.prediction_arguments import Score
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections

OVERLAP = 0.25  # of a tile's side, shared with the next tile
MIN_TILE = 32  # pixels
SAME_IOU = 0.5
COVERED = 0.7
BORDER = 0.01  # fraction of a tile's side: a box that ends this close to an inner border of its tile is cut


class Tile(NamedTuple):
    """A part of the image, in pixels."""

    x1: int
    y1: int
    x2: int
    y2: int


class _Part(NamedTuple):
    """A detection in a tile, in pixels of the image."""

    tile: Tile
    box: npt.NDArray[np.float32]  # (4,) xyxy
    label: int
    score: float
    mask: PastedMask | None
    keypoints: npt.NDArray[np.float32] | None  # (J, 3)
    cut: bool  # whether it reaches a border of its tile that is inside the image


def predict_tiled(
    predictor: Predictor,
    image: ImageInput,
    *,
    tile: int = 1024,
    overlap: float = OVERLAP,
    score: Score = 0.0,
    channels: Channels = "rgb",
    batch_size: int = 1,
    max_pixels: int = MAX_PIXELS,
) -> ImageDetections:
    """The detections of an image that is divided into tiles of `tile` x `tile` pixels, as one result.

    Neighbouring tiles share at least the fraction `overlap` of their side (0 to 0.9): choose it so that most objects
    are whole in some tile. For an image that is not larger than a tile, the result is that of `predictor.predict`.
    `score`: skip detections in tiles with a lower score (one number, or one per class name). `batch_size`: number of
    tiles per forward pass. The other arguments and the errors as in `Predictor.predict`.

    Memory: the decoded image, `batch_size` tiles, and the masks of the detections within their boxes.
    """
    if not isinstance(predictor, Predictor):
        raise wrong_type(predictor, "the predictor", "an rcnn.Predictor")
    tile = check_tiling(tile, overlap)
    batch_size = whole_number("batch_size", batch_size, "a whole number of tiles, 1 or more")
    pixels = as_image(image, channels=channels, max_pixels=max_pixels)
    height, width = pixels.shape[1:]
    source = ImageSource(image=pixels)
    if max(height, width) <= tile:
        return replace(predictor.predict(pixels, score=score), source=source)
    parts, tiles = list[_Part](), tiles_of(height, width, tile, overlap)
    for start in range(0, len(tiles), batch_size):
        some = tiles[start : start + batch_size]
        results = predictor.predict([_cropped(pixels, one) for one in some], score=score, batch_size=batch_size)
        for one, result in zip(some, results, strict=True):
            parts += _parts(result, one, (height, width), max(1.0, tile * BORDER))
    merged = [_merged(group) for group in _groups(parts)]
    merged.sort(key=lambda part: -part.score)
    keypoint = predictor.config.keypoint
    masks = None if predictor.config.mask is None and predictor.config.fcis is None else [part.mask for part in merged]
    return ImageDetections(
        height=height,
        width=width,
        boxes=np.array([part.box for part in merged], dtype=np.float32).reshape(-1, 4),
        scores=np.array([part.score for part in merged], dtype=np.float32),
        labels=np.array([part.label for part in merged], dtype=np.int64),
        pasted=None if masks is None else tuple(mask for mask in masks if mask is not None),
        keypoints=None if keypoint is None else np.array(
            [part.keypoints for part in merged], dtype=np.float32
        ).reshape(-1, len(keypoint.names), 3),
        classes=predictor.classes,
        skeleton=predictor.skeleton,
        source=source,
    )  # fmt: skip


def check_tiling(tile: int, overlap: float) -> int:
    """The side as an int. Raises ValueError for a side or an overlap out of range."""
    side = whole_number("tile", tile, f"a side of {MIN_TILE} whole pixels or more, e.g. 1024 (--tile)", MIN_TILE)
    real_number("overlap", overlap, "a fraction of the tile from 0 to 0.9 (--tile-overlap)", 0, 0.9)
    return side


def tiles_of(height: int, width: int, tile: int, overlap: float) -> list[Tile]:
    """Tiles that cover an image, row by row: `tile` x `tile` pixels, or the image's side if that is shorter."""
    rows, columns = _starts(height, tile, overlap), _starts(width, tile, overlap)
    return [Tile(x, y, min(x + tile, width), min(y + tile, height)) for y in rows for x in columns]


def _starts(side: int, tile: int, overlap: float) -> list[int]:
    """Where tiles start along one side, at equal distances; the last one ends with the image."""
    if side <= tile:
        return [0]
    step = max(1, int(tile * (1 - overlap)))
    count = -(-(side - tile) // step) + 1
    return [round(place * (side - tile) / (count - 1)) for place in range(count)]


def _cropped(pixels: Tensor, tile: Tile) -> Tensor:
    return pixels[:, tile.y1 : tile.y2, tile.x1 : tile.x2]


def _parts(result: ImageDetections, tile: Tile, size: tuple[int, int], margin: float) -> list[_Part]:
    """The detections of a tile in pixels of the image of `size` (height, width)."""
    corner = np.array([tile.x1, tile.y1], dtype=np.float32)
    boxes = result.boxes + np.tile(corner, 2)
    inner = (tile.x1 > 0, tile.y1 > 0, tile.x2 < size[1], tile.y2 < size[0])
    near = np.abs(boxes - np.array(tile, dtype=np.float32)) <= margin  # (N, 4)
    cut = [bool(borders.any()) for borders in near & np.array(inner)]
    pasted_masks = result.pasted_masks()
    masks = [None] * len(result) if pasted_masks is None else [
        PastedMask(pasted.x0 + tile.x1, pasted.y0 + tile.y1, pasted.mask) for pasted in pasted_masks
    ]  # fmt: skip
    points = None if result.keypoints is None else result.keypoints + np.append(corner, np.float32(0))
    return [
        _Part(
            tile=tile,
            box=boxes[row],
            label=int(result.labels[row]),
            score=float(result.scores[row]),
            mask=masks[row],
            keypoints=None if points is None else points[row],
            cut=cut[row],
        )
        for row in range(len(result))
    ]


def _groups(parts: Sequence[_Part]) -> list[list[_Part]]:
    """The detections of each object."""
    owner = list(range(len(parts)))

    def root(row: int) -> int:
        while owner[row] != row:
            owner[row] = owner[owner[row]]
            row = owner[row]
        return row

    for first, second in _candidates(parts):
        if _are_one(parts[first], parts[second]):
            owner[root(second)] = root(first)
    groups = dict[int, list[_Part]]()
    for row, part in enumerate(parts):
        groups.setdefault(root(row), []).append(part)
    return list(groups.values())


def _candidates(parts: Sequence[_Part]) -> list[tuple[int, int]]:
    """Pairs of detections of one class in different tiles whose boxes intersect."""
    boxes = np.array([part.box for part in parts], dtype=np.float32).reshape(-1, 4)
    labels = np.array([part.label for part in parts])
    tiles = np.array([part.tile for part in parts]).reshape(-1, 4)
    pairs = list[tuple[int, int]]()
    for row in range(len(parts)):
        later = slice(row + 1, None)
        meets = (np.minimum(boxes[later, 2:], boxes[row, 2:]) > np.maximum(boxes[later, :2], boxes[row, :2])).all(
            axis=1
        )
        meets &= (labels[later] == labels[row]) & (tiles[later] != tiles[row]).any(axis=1)
        pairs += [(row, row + 1 + int(place)) for place in np.flatnonzero(meets)]
    return pairs


def _are_one(first: _Part, second: _Part) -> bool:
    """Whether two detections in different tiles are one object, compared within the area that both tiles contain."""
    shared = Tile(
        max(first.tile.x1, second.tile.x1),
        max(first.tile.y1, second.tile.y1),
        min(first.tile.x2, second.tile.x2),
        min(first.tile.y2, second.tile.y2),
    )
    if shared.x1 >= shared.x2 or shared.y1 >= shared.y2:
        return False
    if first.mask is not None and second.mask is not None:
        one, other, both = _areas_of_masks(first.mask, second.mask, shared)
    else:
        one, other, both = _areas_of_boxes(first.box, second.box, shared)
    if both <= 0:
        return False
    covered = (first.cut and both >= COVERED * one) or (second.cut and both >= COVERED * other)
    return covered or both >= SAME_IOU * (one + other - both)


def _areas_of_masks(first: PastedMask, second: PastedMask, shared: Tile) -> tuple[float, float, float]:
    """Pixels of two masks, and of their intersection, within an area."""
    one, other = _window(first, shared), _window(second, shared)
    x1, y1 = max(one.x0, other.x0), max(one.y0, other.y0)
    x2 = min(one.x0 + one.mask.shape[1], other.x0 + other.mask.shape[1])
    y2 = min(one.y0 + one.mask.shape[0], other.y0 + other.mask.shape[0])
    common = Tile(x1, y1, max(x1, x2), max(y1, y2))
    both = _window(one, common).mask & _window(other, common).mask
    return float(one.mask.sum()), float(other.mask.sum()), float(both.sum())


def _window(pasted: PastedMask, area: Tile) -> PastedMask:
    """The part of a mask within an area."""
    x1, y1 = max(pasted.x0, area.x1), max(pasted.y0, area.y1)
    x2, y2 = max(x1, area.x2), max(y1, area.y2)
    inside = pasted.mask[y1 - pasted.y0 : y2 - pasted.y0, x1 - pasted.x0 : x2 - pasted.x0]
    return PastedMask(x1, y1, inside)


def _areas_of_boxes(
    first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], shared: Tile
) -> tuple[float, float, float]:
    """Areas of two boxes, and of their intersection, within an area."""
    area = np.array(shared, dtype=np.float32)
    boxes = np.stack([first, second, np.concatenate([np.maximum(first, second)[:2], np.minimum(first, second)[2:]])])
    sides = np.minimum(boxes[:, 2:], area[2:]) - np.maximum(boxes[:, :2], area[:2])  # (3, 2)
    one, other, both = sides.clip(min=0).prod(axis=1).tolist()
    return one, other, both


def _merged(group: Sequence[_Part]) -> _Part:
    """One detection for several of an object: the best one that is not cut, else the union of the parts."""
    best = max(group, key=lambda part: part.score)
    whole = [part for part in group if not part.cut]
    if whole:
        return max(whole, key=lambda part: part.score)._replace(score=best.score)
    boxes = np.array([part.box for part in group])
    points = [part.keypoints for part in group if part.keypoints is not None]
    return best._replace(
        box=np.concatenate([boxes[:, :2].min(axis=0), boxes[:, 2:].max(axis=0)]),
        mask=_union([part.mask for part in group if part.mask is not None]),
        keypoints=_best_points(np.stack(points)) if points else None,
    )


def _union(masks: Sequence[PastedMask]) -> PastedMask | None:
    """The pixels that any of the masks sets; None without masks."""
    filled = [pasted for pasted in masks if pasted.mask.size]
    if not filled:
        return masks[0] if masks else None
    x0, y0 = min(pasted.x0 for pasted in filled), min(pasted.y0 for pasted in filled)
    x1 = max(pasted.x0 + pasted.mask.shape[1] for pasted in filled)
    y1 = max(pasted.y0 + pasted.mask.shape[0] for pasted in filled)
    whole = np.zeros((y1 - y0, x1 - x0), dtype=np.bool_)
    for pasted in filled:
        top, left = pasted.y0 - y0, pasted.x0 - x0
        whole[top : top + pasted.mask.shape[0], left : left + pasted.mask.shape[1]] |= pasted.mask
    return PastedMask(x0, y0, whole)


def _best_points(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each keypoint (J, 3) from the part in which it has the highest score; `points` (parts, J, 3)."""
    chosen = points[..., 2].argmax(axis=0)
    return points[chosen, np.arange(points.shape[1])]
