"""JPEG files decoded by torchcodec have Pillow's pixels; what it cannot decode is left to Pillow and its messages."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from rcnn.data import images
from rcnn.data.images import ImageError, image_size, read_image
from rcnn.data.jpeg import decode_jpeg

pytest.importorskip("torchcodec", reason="needs the extra `fast` (torchcodec)")


def not_installed(content: bytes) -> None:
    """`decode_jpeg` without torchcodec."""


def jpeg(mode: str = "RGB", orientation: int = 1, size: tuple[int, int] = (37, 26)) -> bytes:
    """A JPEG file with colours that vary slowly, as in photos."""
    noise = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).convert(mode)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    picture.save(file, "jpeg", quality=80, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_of_pillow(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = jpeg(orientation=orientation)
    pixels = decode_jpeg(content)
    assert pixels is not None
    assert torch.equal(read_image(content), pixels)
    monkeypatch.setattr(images, "decode_jpeg", not_installed)
    assert torch.equal(read_image(content), pixels)
    assert pixels.permute(1, 2, 0).is_contiguous()


@pytest.mark.parametrize("exif", [None, 1, 6])
def test_an_orientation_in_xmp_is_applied_unless_exif_has_one(
    exif: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="8"/></x:xmpmeta>'
    picture, file, tags = Image.open(io.BytesIO(jpeg())), io.BytesIO(), Image.Exif()
    if exif:
        tags[0x0112] = exif
    picture.save(file, "jpeg", exif=tags, xmp=xmp)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file.getvalue()))))
    pixels = read_image(file.getvalue())
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    assert image_size(file.getvalue()) == pixels.shape[1:] == ((26, 37) if exif == 1 else (37, 26))
    monkeypatch.setattr(images, "decode_jpeg", not_installed)
    assert torch.equal(read_image(file.getvalue()), pixels)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_colours_are_left_to_pillow(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = read_image(jpeg(mode))
    monkeypatch.setattr(images, "decode_jpeg", not_installed)
    assert torch.equal(read_image(jpeg(mode)), before)


def test_a_truncated_file_has_the_usual_error() -> None:
    content = jpeg(size=(400, 300))
    assert decode_jpeg(content[: len(content) // 2]) is None
    with pytest.raises(ImageError, match="truncated or damaged"):
        read_image(content[: len(content) // 2])
    with pytest.raises(ImageError, match=r"has [0-9,]+ pixels .*; the limit is 1,000: cut"):
        read_image(content, max_pixels=1000)
