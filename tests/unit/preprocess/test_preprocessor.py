"""Sizes, pixels and the mapping back for each system, against Pillow, torchvision, Detectron2, and by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from rcnn.preprocess import FittedPreprocessor, InputConfig, Preprocessor, Resize, Rounding, build_preprocessor
from rcnn.preprocess.legacy import CanvasPreprocessor, FactorPreprocessor, canvas_corner, place_on_canvas, resize_factor
from rcnn.preprocess.resizing import resize_image

Size = tuple[int, int]

SIZES = [(480, 640), (640, 480), (427, 640), (333, 500), (1200, 1600), (97, 1000), (500, 500), (1, 3000)]


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """An image (3, H, W) uint8."""
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def preprocessor(low: int, high: int, kind: Resize, rounding: Rounding = "round") -> Preprocessor:
    """The preprocessor that resizes to these shorter and longer sides."""
    return build_preprocessor(InputConfig(min_size=low, max_size=high, resize=kind, size_rounding=rounding))


def resized_size(size: Size, low: int, high: int, kind: Resize, rounding: Rounding = "round") -> Size:
    """(height, width) after resizing."""
    return preprocessor(low, high, kind, rounding).resized_size(size)


def resize_shortest(image: torch.Tensor, low: int, high: int, kind: Resize) -> torch.Tensor:
    """The image resized."""
    return preprocessor(low, high, kind)(image)[0]


def test_sizes_and_pixels_equal_detectron2(shared: Path) -> None:
    golden = np.load(shared / "golden" / "ops" / "resize.npz")
    found = [resized_size((h, w), 800, 1333, "antialias") for h, w in golden["sizes_in"].tolist()]
    assert found == [tuple(size) for size in golden["sizes_800_1333"].tolist()]
    image = torch.from_numpy(golden["image"]).permute(2, 0, 1)
    for low, high in ((64, 1000), (20, 1000), (64, 80)):
        resized = resize_shortest(image, low, high, "antialias")
        assert resized.dtype == torch.uint8
        np.testing.assert_array_equal(resized.permute(1, 2, 0).numpy(), golden[f"resized_min{low}_max{high}"])


@pytest.mark.parametrize("size", [(53, 37), (37, 53), (64, 64), (200, 31)])
@pytest.mark.parametrize("contiguous", [True, False])
def test_antialias_equals_pillow(size: Size, contiguous: bool) -> None:
    image = noise(*size)
    rows = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    if not contiguous:
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    resized = resize_image(image, (48, 29), "antialias")
    expected = rows.resize((29, 48), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(resized.permute(1, 2, 0).numpy(), np.array(expected))


@pytest.mark.parametrize("size", [size for size in SIZES if min(size) > 1])
def test_bilinear_equals_torchvisions_transform(size: Size) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    low, high = 64, 100
    transform = torchvision.models.detection.transform.GeneralizedRCNNTransform(low, high, mean, std)
    image = noise(*size)
    batch, _ = transform([image / 255])
    height, width = batch.image_sizes[0]
    ours = resize_shortest(image, low, high, "bilinear")
    assert tuple(ours.shape[1:]) == (height, width)
    normal = (ours / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(normal, batch.tensors[0, :, :height, :width], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("size", [(48, 64), (31, 20), (64, 48), (27, 40)])
def test_align_corners_by_a_loop(size: Size) -> None:
    image = noise(*size)
    resized = resize_shortest(image, 24, 40, "align_corners")
    scale = min(24 / min(size), 40 / max(size))
    height, width = int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)
    assert tuple(resized.shape) == (3, height, width)
    for y, x in ((0, 0), (height - 1, width - 1), (5, 7), (height // 2, 1)):
        v, u = y * (size[0] - 1) / (height - 1), x * (size[1] - 1) / (width - 1)
        top, left = min(int(v), size[0] - 2), min(int(u), size[1] - 2)
        window = image[:, top : top + 2, left : left + 2].double()
        rows = window[:, 0] * (1 - (v - top)) + window[:, 1] * (v - top)
        expected = rows[:, 0] * (1 - (u - left)) + rows[:, 1] * (u - left)
        torch.testing.assert_close(resized[:, y, x].double(), expected, atol=1e-2, rtol=0)


def test_a_one_pixel_side_keeps_one_pixel() -> None:
    assert resized_size((1, 3000), 800, 1333, "antialias") == (1, 1333)
    assert resize_shortest(noise(1, 3000), 800, 1333, "bilinear").shape == (3, 1, 1333)


def test_resizing_takes_uint8_rgb_only() -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 8\) of torch.uint8; expected \(3, H, W\)"):
        resize_shortest(noise(8, 8)[:1], 8, 8, "antialias")


def test_sizes_of_the_systems_that_use_opencv() -> None:
    """600 over 427 is 1.40515: 640 becomes 899.3. OpenCV rounds halves to even, some systems round before the limit."""
    assert resized_size((427, 640), 600, 1000, "opencv_float", "floor") == (600, 899)
    assert resized_size((427, 640), 600, 1000, "opencv_float", "factor") == (600, 899)
    assert resized_size((150, 210), 192, 320, "opencv", "factor") == (192, 269)
    assert resized_size((150, 210), 192, 320, "opencv_float", "floor") == (192, 268)
    # 600 / 599 * 999 = 1000.67 is more than 1000; 600 / 2399 * 4000 = 1000.42 only before it is rounded
    for rounding in ("factor", "factor_limit"):
        assert resize_factor((599, 999), 600, 1000, rounding) == 1000 / 999
    assert resize_factor((2399, 4000), 600, 1000, "factor") == 1000 / 4000
    assert resize_factor((2399, 4000), 600, 1000, "factor_limit") == 600 / 2399
    # tensorpack: 480 x 640 to 800 x 1067, 360 x 640 to 756 x 1344 with a pyramid (facts of the real program)
    assert resized_size((480, 640), 800, 1344, "opencv") == (800, 1067)
    assert resized_size((360, 640), 800, 1344, "opencv") == (756, 1344)
    assert resized_size((360, 640), 800, 1333, "opencv") == (750, 1333)


@pytest.mark.parametrize(
    ("settings", "x", "y"),
    [
        ({}, 210 / 269, 150 / 192),
        ({"rescale": "width"}, 210 / 269, 210 / 269),
        ({"rescale": "height"}, 150 / 192, 150 / 192),
        ({"rescale": "geometric"}, (210 / 269 * 150 / 192) ** 0.5, (210 / 269 * 150 / 192) ** 0.5),
        ({"rescale": "factor", "size_rounding": "factor", "min_size": 192, "max_size": 320}, 1 / 1.28, 1 / 1.28),
    ],
)
def test_boxes_return_as_in_each_system(settings: dict[str, Any], x: float, y: float) -> None:
    """150 x 210 becomes 192 x 269: the width is rounded, and systems differ in the scale for mapping back."""
    np.testing.assert_allclose(
        build_preprocessor(InputConfig(**settings)).to_original_scale((192, 269), (150, 210)), (x, y)
    )


def test_old_systems_have_their_own_preprocessor() -> None:
    assert type(build_preprocessor(InputConfig(resize="bilinear"))) is Preprocessor
    assert type(build_preprocessor(InputConfig(size_rounding="floor"))) is FactorPreprocessor
    assert type(build_preprocessor(InputConfig(rescale="width"))) is FactorPreprocessor
    assert type(build_preprocessor(InputConfig(canvas=64))) is CanvasPreprocessor


def test_a_frame_by_hand() -> None:
    """60 x 90 becomes 40 x 60, so coordinates are scaled by 1.5; boxes are clipped to the file, points are not."""
    image, frame = preprocessor(40, 100, "antialias")(noise(60, 90))
    assert (tuple(image.shape), frame.size, frame.original) == ((3, 40, 60), (40, 60), (60, 90))
    assert frame.scale == pytest.approx(1 / 1.5)
    boxes = np.array([[10, 20, 30, 39], [-5, 10, 70, 50]], np.float32)
    np.testing.assert_allclose(frame.to_original(boxes), [[15, 30, 45, 58.5], [0, 15, 90, 60]])
    points = np.array([[[2, 4, 0.5], [80, -2, 0.1]]], np.float32)
    np.testing.assert_allclose(frame.points_to_original(points), [[[3, 6, 0.5], [120, -3, 0.1]]])


def test_a_frame_on_a_canvas_by_hand() -> None:
    """25 x 32 becomes 50 x 64, placed 7 pixels below the top of a canvas of 64."""
    config = InputConfig(min_size=50, max_size=64, size_rounding="factor_up", resize="opencv_float", canvas=64)
    image, frame = build_preprocessor(config)(noise(25, 32))
    assert (tuple(image.shape), frame.size) == ((3, 64, 64), (64, 64))
    assert not image[:, :7].any()
    assert not image[:, 57:].any()
    np.testing.assert_array_equal(frame.to_original(np.array([[0, 7, 63, 56]], np.float32)), [[0, 0, 32, 25]])
    points = np.array([[[0, 7, 0.5], [63, 56, 0.1]]], np.float32)
    np.testing.assert_allclose(frame.points_to_original(points), [[[0, 0, 0.5], [31, 24, 0.1]]])
    with pytest.raises(ValueError, match=r"does not fit on input\.canvas=10"):
        place_on_canvas(image, 10)
    assert canvas_corner((5, 10), 10) == (2, 0)


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
def test_one_pixel_on_a_canvas(size: Size) -> None:
    config = InputConfig(min_size=50, max_size=64, size_rounding="factor_up", resize="opencv_float", canvas=64)
    frame = build_preprocessor(config).frame(size)
    assert np.isfinite(frame.scale)
    assert frame.scale > 0
    (top, left), (height, width) = frame.corner, frame.resized
    whole = np.array([[left, top, left + width - 1, top + height - 1]], np.float32)
    np.testing.assert_array_equal(frame.to_original(whole), [[0, 0, size[1], size[0]]])
    assert np.isfinite(frame.from_original(np.array([[0, 0, size[1], size[0]]], np.float32))).all()


@pytest.mark.parametrize("rounding", ["round", "factor", "factor_up"])
@pytest.mark.parametrize("original", [(2000, 1), (1, 2000), (1900, 3), (480, 640)])
def test_a_fixed_size_is_never_exceeded(original: Size, rounding: Rounding) -> None:
    """Also by images so long that the limit of the longer side decides, and without needless shrinking."""
    config = InputConfig(size_rounding=rounding)
    fitted, limits = FittedPreprocessor(config, (320, 256)), (320, 256)
    size = fitted.frame(original).size
    assert all(side <= limit for side, limit in zip(size, limits, strict=True))
    assert any(side > 0.9 * limit for side, limit in zip(size, limits, strict=True))
    image, frame = fitted(noise(*original))
    assert (image.shape[1:], frame.size) == (size, size)
