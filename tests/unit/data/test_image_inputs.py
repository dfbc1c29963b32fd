"""Everything that users pass as an image gives the same pixels, or one clear ValueError."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import Dataset
from rcnn.data.image_inputs import as_image, image_of_list, is_one_image
from rcnn.data.images import read_image

RGB = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def rows(image: torch.Tensor) -> np.ndarray:
    """(H, W, 3) of an image (3, H, W)."""
    return image.permute(1, 2, 0).numpy()


def png(image: Image.Image, **options: Any) -> bytes:
    """The image encoded without loss."""
    data = io.BytesIO()
    image.save(data, "PNG", **options)
    return data.getvalue()


def test_one_image_in_every_form(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(Image.fromarray(RGB)))
    alpha = np.dstack([RGB, np.full((7, 5), 9, np.uint8)])
    frozen = RGB.copy()
    frozen.flags.writeable = False
    forms: list[Any] = [
        path, str(path), path.read_bytes(), bytearray(path.read_bytes()), memoryview(path.read_bytes()),
        io.BytesIO(path.read_bytes()), path.open("rb"),
        RGB, alpha, frozen, np.asfortranarray(RGB), RGB[::-1][::-1], RGB.view(np.ndarray),
        Image.fromarray(RGB), Image.fromarray(alpha), torch.from_numpy(RGB.transpose(2, 0, 1).copy()),
    ]  # fmt: skip
    for form in forms:
        assert is_one_image(form)
        image = as_image(form)
        assert (image.dtype, image.device.type) == (torch.uint8, "cpu")
        np.testing.assert_array_equal(rows(image), RGB, err_msg=str(type(form)))


def test_bgr_is_for_arrays_and_tensors(tmp_path: Path) -> None:
    bgr = RGB[:, :, ::-1]
    np.testing.assert_array_equal(rows(as_image(bgr, channels="bgr")), RGB)
    bgra = np.dstack([bgr, np.zeros((7, 5), np.uint8)])
    np.testing.assert_array_equal(rows(as_image(bgra, channels="bgr")), RGB)
    np.testing.assert_array_equal(rows(as_image(torch.from_numpy(bgr.copy()).permute(2, 0, 1), channels="bgr")), RGB)
    np.testing.assert_array_equal(rows(as_image(Image.fromarray(RGB), channels="bgr")), RGB)
    with pytest.raises(ValueError, match="channels='gbr' is not known; expected 'rgb' or 'bgr'"):
        as_image(RGB, channels="gbr")  # type: ignore[arg-type]


def test_grey_array() -> None:
    grey = RGB[:, :, 0]
    for form in (grey, grey[:, :, None]):
        np.testing.assert_array_equal(rows(as_image(form)), np.stack([grey] * 3, -1))
        np.testing.assert_array_equal(rows(as_image(form, channels="bgr")), np.stack([grey] * 3, -1))


def test_open_files_are_read_from_their_position(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before" + png(Image.fromarray(RGB)))
    with path.open("rb") as file:
        file.seek(6)
        np.testing.assert_array_equal(rows(read_image(file)), RGB)
        with pytest.raises(ValueError, match=r"a\.png has no bytes after its position; .* call \.seek\(0\) first"):
            read_image(file)
    with path.open() as text, pytest.raises(ValueError, match=r"a\.png is open as text; expected a binary file"):
        read_image(text)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got a list; expected a path, the bytes of an image file, or an open file"):
        read_image([])  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "La", "P", "PA", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"])
def test_pillow_images_of_every_mode(mode: str) -> None:
    image = Image.fromarray(RGB).convert("L").convert("P") if mode == "PA" else Image.fromarray(RGB)
    source = image.convert(mode.upper()).convert(mode) if mode in ("La", "RGBa") else image.convert(mode)
    assert as_image(source).shape == (3, 7, 5)


def test_sixteen_bits_and_orientation_of_pillow_images() -> None:
    deep = Image.fromarray(np.array([[0, 257, 65535]], np.uint16))
    assert deep.mode == "I;16"
    assert rows(as_image(deep))[0, :, 0].tolist() == [0, 1, 255]
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = png(Image.fromarray(RGB), exif=exif)
    image = as_image(Image.open(io.BytesIO(turned)))
    assert torch.equal(image, read_image(turned))
    assert image.shape == (3, 5, 7)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (RGB / 255, r"\(7, 5, 3\) of float64; expected uint8 .*values in 0\.\.1, convert with \(255 \* image\)"),
        (RGB.astype(np.int64), r"of int64; expected uint8 .*the values fit, convert with image\.astype\(np\.uint8\)"),
        (RGB.astype(np.float32), r"the values fit, convert with image\.round\(\)\.astype\(np\.uint8\)"),
        (
            RGB.astype(np.uint16) + 500,
            r"of uint16; expected uint8 .*the values are 5\d\d to 7\d\d; scale them to 0\.\.255",
        ),
        (RGB - 300.0, r"the values are -\d+ to -\d+; scale them to 0\.\.255"),
        (np.full((2, 2), np.nan), "some values are not finite"),
        (np.zeros((0, 4)), r"of float64; expected uint8 .* with values 0\.\.255$"),
        (RGB > 9, r"of bool; expected uint8 .*convert with \(255 \* image\)\.astype\(np\.uint8\)"),
        (np.array([None, 1]), "of object; expected uint8"),
        (np.array(["a"]), "expected uint8"),
        (RGB[:0], "which has no pixels"),
        (np.zeros((0, 0), np.uint8), "which has no pixels"),
        (RGB[None], "pass several images as a list"),
        (RGB[0, 0], r"is \(3,\) of uint8; expected uint8 \(H, W\)"),
        (np.uint8(3) + np.zeros((), np.uint8), "a uint8; expected a path|is \\(\\) of uint8"),
        (RGB.transpose(2, 0, 1), r"channels come last in arrays, use np\.moveaxis"),
        (RGB[:, :, :2], r"\(7, 5, 2\) of uint8"),
        (torch.from_numpy(RGB), r"is \(7, 5, 3\) of uint8; expected uint8 \(3, H, W\): use image\.permute"),
        (torch.rand(3, 4, 4), r"of float32; expected uint8 \(3, H, W\).*values in 0\.\.1"),
        (torch.full((3, 4, 4), 200), r"of int64.*the values fit, convert with image\.to\(torch\.uint8\)"),
        (torch.rand(3, 4, 4) > 0, r"of bool.*convert with \(255 \* image\)\.to\(torch\.uint8\)"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "pass several images as a list"),
        (torch.zeros(3, 0, 4, dtype=torch.uint8), "which has no pixels"),
        (Image.new("F", (4, 4)), "the Pillow image has 32-bit samples"),
        (Image.new("RGB", (0, 4)), r"the Pillow image is empty \(0 x 4\)"),
        ("http://host/a.jpg", "is a URL; expected a file"),
        (io.StringIO("text"), r"the StringIO is open as text; expected a binary file: open\(path, 'rb'\)"),
        (io.BytesIO(), r"the BytesIO has no bytes after its position; expected an image: call \.seek\(0\)"),
        (io.BytesIO(b"text"), "given as 4 bytes is not an image"),
        (b"text", "given as 4 bytes is not an image"),
        (None, r"got None; expected a path \(str or Path\), encoded bytes, a binary file, a Pillow image"),
        (3, "got a int; expected a path"),
    ],
)
def test_wrong_types_give_one_clear_error(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_image(value)


def test_a_missing_file() -> None:
    for path, reason in (("gone.jpg", "does not exist"), ("a\0b.jpg", "contains a NUL character")):
        with pytest.raises(FileNotFoundError, match=reason):
            as_image(path)
    with pytest.raises(ValueError, match="got an empty text; expected an image file"):
        as_image("")


def test_an_image_of_a_data_set(tmp_path: Path) -> None:
    """It is the image of its record, a file or the pixels of a torch data set."""
    Image.fromarray(RGB).save(tmp_path / "a.png")
    files = Dataset.from_records([{"file": tmp_path / "a.png", "labels": [0], "boxes": [[0, 0, 2, 2]]}], classes=["a"])
    assert is_one_image(files[0])
    assert torch.equal(as_image(files[0]), as_image(RGB))
    with pytest.raises(ValueError, match="the limit is"):
        as_image(files[0], max_pixels=3)
    target = {"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": torch.tensor([1])}
    pixels = Dataset.from_torch([(torch.from_numpy(RGB).permute(2, 0, 1), target)], ["a"])
    assert torch.equal(as_image(pixels[0]), as_image(RGB))
    assert not is_one_image(files), "several images"
    record: Any = files[0]
    with pytest.raises(ValueError, match="the ImageRecord gives a Tensor when it is read; expected a binary"):
        read_image(record)


def test_a_path_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(Image.fromarray(RGB)))
    with os.scandir(os.fsencode(tmp_path)) as entries:
        (entry,) = entries
    assert torch.equal(as_image(entry), as_image(RGB))


def test_a_text_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(Image.fromarray(RGB)))
    with path.open() as file, pytest.raises(ValueError, match=r"the file .*a\.png is open as text; expected a binary"):
        as_image(file)
    with path.open("rb") as file:
        file.read()
        with pytest.raises(ValueError, match=r"the file .*a\.png has no bytes after its position"):
            as_image(file)


def test_one_or_several() -> None:
    assert not is_one_image([RGB])
    assert not is_one_image((RGB,))
    assert not is_one_image(iter([RGB]))
    assert not is_one_image({"a": RGB}.values())
    for value in (None, 3, {"a": RGB}, {1}, object()):
        with pytest.raises(ValueError, match=r"expected a path.*or a list of these"):
            is_one_image(value)
    sample: tuple[Any, ...] = (RGB, {"boxes": [[0, 0, 2, 2]], "labels": [1]})
    with pytest.raises(ValueError, match=r"got an image with a dict of its objects, .*: pass the image alone"):
        is_one_image(sample)
    with pytest.raises(ValueError, match="image 1: got an image with a dict of its objects"):
        image_of_list(sample, 1)
    with pytest.raises(ValueError, match=r"image 1: the array is \(7, 5, 3\) of float64"):
        image_of_list(RGB / 255, 1)
