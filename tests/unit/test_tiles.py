"""Tiles: a predictor that finds exact objects in each tile gives, merged, the exact objects of the whole image."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.ops.masks import PastedMask
from rcnn.predictor import Predictor
from rcnn.results import ImageDetections
from rcnn.tiles import check_tiling, predict_tiled, tiles_of
from tests.tiny_data import TINY_KEYPOINT_MODEL, TINY_MODEL

# object -> the red of its pixels, and its class: red % 2
WHOLE, FOUR_TILES, WIDE, NEIGHBOUR, OTHER_CLASS, CORNER = 11, 13, 15, 17, 18, 21


def scene() -> npt.NDArray[np.uint8]:
    """An image of 300 x 260 pixels for tiles of 128."""
    image = np.zeros((300, 260, 3), np.uint8)
    y, x = np.indices((300, 260)) + 0.5
    image[10:40, 12:50, 0] = WHOLE
    image[np.hypot(x - 131, y - 145) < 72, 0] = FOUR_TILES  # larger than the tiles' overlap in both directions
    image[270:280, 2:255, 0] = WIDE  # as long as the image
    image[281:290, 90:200, 0] = NEIGHBOUR  # of the same class, a pixel below
    image[40:60, 80:125, 0] = OTHER_CLASS
    image[250:262, 240:260, 0] = CORNER
    return image


class Exact(Predictor):
    """Finds each object that it sees, exactly; `masks` False: boxes only."""

    masks = True
    most = 0  # largest number of pixels in one call

    def predict(self, images: Tensor | Iterable[Tensor], **options: object) -> object:  # type: ignore[override]
        """The exact objects of one image or of several."""
        if isinstance(images, Tensor):
            return self._exact(images)
        images = list(images)
        self.most = max(self.most, sum(image[0].numel() for image in images))
        return [self._exact(image) for image in images]

    def _exact(self, image: Tensor) -> ImageDetections:
        red = image[0].numpy()
        values = sorted(set(np.unique(red).tolist()) - {0})
        pasted = list[PastedMask]()
        for value in values:
            ys, xs = np.nonzero(red == value)
            part = red[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1] == value
            pasted.append(PastedMask(int(xs.min()), int(ys.min()), part))
        boxes = [(r.x0, r.y0, r.x0 + r.mask.shape[1], r.y0 + r.mask.shape[0]) for r in pasted]
        return ImageDetections(
            height=red.shape[0],
            width=red.shape[1],
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            scores=np.array([1 - value / 100 for value in values], np.float32),
            labels=np.array([value % 2 for value in values], np.int64),
            pasted=tuple(pasted) if self.masks else None,
            keypoints=None if self.config.keypoint is None else self._joints(image[1].numpy(), len(values)),
            classes=self.classes,
        )

    def _joints(self, green: npt.NDArray[np.uint8], count: int) -> npt.NDArray[np.float32]:
        """Joint j where green is j + 1, with the score 1; at 0, 0 with the score 0.1 if it is not seen."""
        assert self.config.keypoint is not None
        points = np.full((count, len(self.config.keypoint.names), 3), (0, 0, 0.1), np.float32)
        for y, x in zip(*np.nonzero(green), strict=True):
            points[:, green[y, x] - 1] = (x, y, 1)
        return points


def exact(model: str = "mask_rcnn_compact") -> Exact:
    words = [word for word in TINY_MODEL if not word.startswith("mask.") or "mask" in model]
    found = Exact(build_detector(override(model_config(model), [*words, "num_classes=2"])), device="cpu")
    found.masks = "mask" in model
    return found


def test_every_object_is_found_once_and_whole() -> None:
    image = scene()
    predictor = exact()
    result = predict_tiled(predictor, image, tile=128, overlap=0.25, batch_size=2)
    assert result.masks is not None
    values = [image[mask][0, 0] for mask in result.masks]
    assert values == [WHOLE, FOUR_TILES, WIDE, NEIGHBOUR, OTHER_CLASS, CORNER]
    for value, mask, box in zip(values, result.masks, result.boxes, strict=True):
        np.testing.assert_array_equal(mask, image[..., 0] == value)
        ys, xs = np.nonzero(mask)
        assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    assert result.names == ("1", "1", "1", "1", "0", "1")
    assert predictor.most == 2 * 128 * 128
    whole = predictor.predict(torch.from_numpy(image).permute(2, 0, 1))
    assert isinstance(whole, ImageDetections)
    assert whole.rles() == result.rles()
    assert result[[1]].rles() == [whole.rles()[1]]  # type: ignore[index]
    np.testing.assert_array_equal(np.asarray(result.draw()), np.asarray(whole.draw(image)))


def test_boxes_are_merged_without_masks() -> None:
    image = scene()
    image[281:290] = 0  # boxes of objects that touch cannot be separated
    result = predict_tiled(exact("faster_rcnn_compact"), image, tile=128)
    assert result.masks is None
    assert result.boxes.tolist() == [
        [12, 10, 50, 40], [59, 73, 203, 217], [2, 270, 255, 280], [80, 40, 125, 60], [240, 250, 260, 262],
    ]  # fmt: skip


def test_tiles_cover_the_image_with_the_overlap() -> None:
    for height, width, tile, overlap in ((300, 260, 128, 0.25), (129, 50, 128, 0.0), (1000, 999, 64, 0.5)):
        covered = np.zeros((height, width), bool)
        tiles = tiles_of(height, width, tile, overlap)
        for one in tiles:
            assert (one.x2 - one.x1, one.y2 - one.y1) == (min(tile, width), min(tile, height))
            covered[one.y1 : one.y2, one.x1 : one.x2] = True
        assert covered.all()
        columns = sorted({one.x1 for one in tiles})
        assert all(after - before <= tile * (1 - overlap) for before, after in pairwise(columns))


def test_an_image_of_one_tile_is_predicted_on_as_usual() -> None:
    torch.manual_seed(0)
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    predictor = Predictor(build_detector(override(model_config("mask_rcnn_compact"), words)), device="cpu")
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    tiled, whole = predict_tiled(predictor, image, tile=96), predictor.predict(image)
    assert len(whole) > 0
    assert tiled.to_json() == whole.to_json()
    assert predict_tiled(predictor, image, tile=96, score=0.5).to_json() == whole.above(0.5).to_json()
    several = predict_tiled(predictor, image, tile=64)  # two tiles
    assert (several.height, several.width) == (64, 96)
    assert several.boxes[:, 2].max() > 70


def test_keypoints_are_moved_and_the_best_of_the_parts_are_kept() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[20:80, 10:190, 0] = 11  # in three tiles; joint j is the pixel with the green j + 1
    where = {0: (25, 12), 1: (50, 95), 2: (70, 185), 3: (30, 150)}
    for joint, (y, x) in where.items():
        image[y, x, 1] = joint + 1
    words = [*TINY_KEYPOINT_MODEL, "num_classes=2"]
    config = override(model_config("keypoint_rcnn_compact"), words)
    predictor = Exact(build_detector(config), device="cpu")
    predictor.masks = False
    result = predict_tiled(predictor, image, tile=100, overlap=0.3)
    assert result.boxes.tolist() == [[10, 20, 190, 80]]
    assert result.keypoints is not None
    assert result.keypoints[0, :4].tolist() == [[x, y, 1] for y, x in where.values()]


def test_memory_does_not_grow_with_the_square_of_the_image() -> None:
    image = np.zeros((1500, 1500, 3), np.uint8)
    image[::100, ::100, 0] = 11
    tracemalloc.start()
    result = predict_tiled(exact(), image, tile=128)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(result) > 20
    assert peak < 3 * image[..., 0].size  # masks of all objects at image size would be 100 times this


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"tile=8; expected a side of 32 whole pixels or more"):
        predict_tiled(exact(), scene(), tile=8)
    with pytest.raises(ValueError, match=r"overlap=1; expected a fraction of the tile from 0 to 0\.9"):
        predict_tiled(exact(), scene(), overlap=1)
    with pytest.raises(ValueError, match=r"tile=33\.5; expected a side of 32 whole pixels or more"):
        predict_tiled(exact(), scene(), tile=33.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size=0; expected a whole number of tiles, 1 or more"):
        predict_tiled(exact(), scene(), batch_size=0)
    assert check_tiling(np.int64(64), 0.25) == 64  # type: ignore[arg-type]
