"""Reading image files: every kind of pixel and damage, against Pillow and values computed by hand."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from rcnn.data.images import ImageError, image_size, is_image, read_ids, read_image, read_resized

Read = Callable[..., object]  # read_image or image_size
COLOURS = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


def as_array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def write(path: Path, pixels: np.ndarray, mode: str | None = None) -> Path:
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(path, quality=95)  # the quality of JPEGs, unused by others
    return path


def test_rgb_is_uint8_channels_first(tmp_path: Path) -> None:
    image = read_image(write(tmp_path / "a.png", COLOURS))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 7, 5)
    np.testing.assert_array_equal(as_array(image), COLOURS)


def test_bytes_are_read_as_the_file_is(tmp_path: Path) -> None:
    path = write(tmp_path / "a.png", COLOURS)
    assert torch.equal(read_image(path.read_bytes()), read_image(str(path)))


def stored_as(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The pixels that a camera stores for an `upright` image with an EXIF orientation (EXIF 2.3, tag 274)."""
    flip = {1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1]}
    transposed = upright.transpose(1, 0, 2)
    flip |= {5: transposed, 6: transposed[::-1], 7: transposed[::-1, ::-1], 8: transposed[:, ::-1]}
    return np.ascontiguousarray(flip[orientation])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(stored_as(COLOURS, orientation)).save(path, exif=exif, lossless=True, exact=True)  # for WebP
    np.testing.assert_array_equal(as_array(read_image(path)), COLOURS)
    assert image_size(path) == (7, 5)


def test_exif_orientation_of_a_jpeg(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "a.jpg"
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, exif=exif)
    assert read_image(path).shape == (3, 30, 20)
    assert image_size(path) == image_size(path.read_bytes()) == (30, 20)


def smooth(height: int, width: int) -> np.ndarray:
    """Waves in both directions and a ramp, in which a shift by a pixel is seen."""
    y, x = np.mgrid[:height, :width]
    waves = [120 + 60 * np.sin(x / 17) + 60 * np.cos(y / 23), 255 * x / width, 255 * y / height]
    return np.stack(waves, axis=2).round().astype(np.uint8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_large_jpeg_is_resized_while_it_is_decoded(tmp_path: Path, orientation: int) -> None:
    pixels, size, path = smooth(403, 607), (48, 72), tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored_as(pixels, orientation)).save(path, quality=98, subsampling=0, exif=exif)
    decoded = read_resized(path, size)
    small = decoded.image
    assert decoded.original_size == decoded.file_size == (403, 607)
    expected = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    difference = np.abs(as_array(small).astype(float) - np.asarray(expected))
    assert difference.mean() < 0.6
    assert difference.max() <= 4  # the ramps rise by 5 per pixel


def test_an_image_that_is_not_so_large_is_decoded_whole(tmp_path: Path) -> None:
    pixels = smooth(400, 600)
    for name, size in (("a.jpg", (101, 152)), ("a.png", (50, 75))):
        decoded = read_resized(write(tmp_path / name, pixels), size)
        assert decoded.file_size is None
        assert decoded.original_size == (400, 600)
        assert torch.equal(decoded.image, read_image(tmp_path / name))


def test_the_first_photo_of_several_in_a_file_is_resized(tmp_path: Path) -> None:
    first, second = Image.fromarray(smooth(400, 600)), Image.new("RGB", (600, 400))
    first.save(tmp_path / "a.mpo", save_all=True, append_images=[second], quality=95)
    small, file_size = read_resized(tmp_path / "a.mpo", (50, 75))
    assert file_size == (400, 600)
    expected = np.asarray(first.resize((75, 50), Image.Resampling.BILINEAR))
    assert np.abs(as_array(small).astype(float) - expected).mean() < 1.5


def test_exif_after_the_pixels_of_a_png_is_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = io.BytesIO()
    Image.fromarray(COLOURS).save(data, "PNG", exif=exif)
    raw = data.getvalue()
    start = raw.index(b"eXIf") - 4
    length = int.from_bytes(raw[start : start + 4], "big") + 12
    end = raw.index(b"IEND") - 4
    late = raw[:start] + raw[start + length : end] + raw[start : start + length] + raw[end:]
    assert read_image(late).shape == (3, 5, 7)
    assert image_size(late) == (5, 7)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(COLOURS).save(path, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff\x00")
    assert read_image(path).shape == (3, 7, 5)
    assert image_size(path) == (7, 5)


def test_grey_and_bilevel(tmp_path: Path) -> None:
    grey = COLOURS[..., 0]
    np.testing.assert_array_equal(as_array(read_image(write(tmp_path / "g.png", grey))), np.stack([grey] * 3, -1))
    bits = read_image(write(tmp_path / "b.png", grey > 99))
    np.testing.assert_array_equal(as_array(bits)[..., 1], np.where(grey > 99, 255, 0))


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(8)
    image.save(tmp_path / "p.png")
    np.testing.assert_array_equal(as_array(read_image(tmp_path / "p.png")), np.array(image.convert("RGB")))


@pytest.mark.filterwarnings("error")
def test_palette_with_transparent_entries_keeps_their_colours(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(8)
    expected = np.array(image.convert("RGB"))
    image.save(tmp_path / "p.png", transparency=bytes([0, 128, 255, 0, 0, 9, 9, 9]))
    np.testing.assert_array_equal(as_array(read_image(tmp_path / "p.png")), expected)


def test_transparency_is_dropped_not_blended(tmp_path: Path) -> None:
    alpha = np.linspace(0, 255, 35).astype(np.uint8).reshape(7, 5, 1)
    image = read_image(write(tmp_path / "rgba.png", np.concatenate([COLOURS, alpha], -1)))
    np.testing.assert_array_equal(as_array(image), COLOURS)
    grey = COLOURS[..., :1]
    Image.merge("LA", [Image.fromarray(grey[..., 0]), Image.fromarray(alpha[..., 0])]).save(tmp_path / "la.png")
    np.testing.assert_array_equal(as_array(read_image(tmp_path / "la.png")), grey.repeat(3, -1))


@pytest.mark.parametrize("suffix", ["png", "tiff", "pgm"])
def test_sixteen_bits_are_scaled(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 128, 129, 255, 256], [257, 1000, 32768, 65406, 65535]], np.uint16)
    path = write(tmp_path / f"a.{suffix}", values)
    expected = [[0, 0, 1, 1, 1], [1, 4, 128, 254, 255]]  # round(value / 257)
    np.testing.assert_array_equal(as_array(read_image(path)), np.stack([expected] * 3, -1))


def test_big_endian_sixteen_bit_tiff(tmp_path: Path) -> None:
    values = np.array([[0, 257 * 40, 257 * 200]], np.uint16)
    Image.fromarray(values.astype(">u2").view(">u2")).save(tmp_path / "a.tiff")
    assert as_array(read_image(tmp_path / "a.tiff"))[0, :, 0].tolist() == [0, 40, 200]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_thirty_two_bit_images_are_refused(tmp_path: Path, dtype: type[np.float32 | np.int32]) -> None:
    path = write(tmp_path / "a.tiff", np.ones((4, 4), dtype))
    with pytest.raises(ImageError, match=r"a\.tiff has 32-bit samples.*8 or 16 bits"):
        read_image(path)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_jpeg_of_other_color_spaces_is_close_to_rgb(tmp_path: Path, mode: str) -> None:
    flat = np.empty((32, 32, 3), np.uint8)
    flat[:] = (200, 120, 40)
    path = write(tmp_path / "a.jpg", flat, mode)
    with Image.open(path) as image:
        assert image.mode == ("CMYK" if mode == "CMYK" else "RGB")
    assert np.abs(as_array(read_image(path)).astype(int) - flat).max() <= 4


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.png"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True, default_image=False)
        image = read_image(tmp_path / name)
        assert image.shape == (3, 4, 6)
        assert image[:, 0, 0].tolist() == [255, 0, 0], name


@pytest.mark.parametrize("read", [read_image, read_ids])
def test_a_lack_of_memory_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "a.png")

    def load(self: Image.Image) -> None:
        raise MemoryError("Unable to allocate 1.34 GiB")

    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(ImageError, match=r"a\.png \(40 x 30 pixels\) does not fit in memory: shrink it"):
        read(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["jpg", "png", "tiff", "webp", "gif", "bmp"])
def test_truncated_file_is_named_with_a_cure(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = write(tmp_path / f"cut.{suffix}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match=rf"cut\.{suffix} is .*(again|JPEG or PNG)"):
        read_image(path)


@pytest.mark.parametrize("read", [read_image, image_size])
class TestNoImage:
    def test_missing(self, tmp_path: Path, read: Read) -> None:
        with pytest.raises(FileNotFoundError, match=r"none\.jpg does not exist: check the path"):
            read(tmp_path / "none.jpg")
        with pytest.raises(FileNotFoundError, match=r"\*\.jpg does not exist: a pattern is not expanded here, glob"):
            read(tmp_path / "*.jpg")

    def test_folder(self, tmp_path: Path, read: Read) -> None:
        with pytest.raises(ImageError, match="is a folder; expected an image file"):
            read(tmp_path)

    def test_text(self, tmp_path: Path, read: Read) -> None:
        (tmp_path / "notes.jpg").write_text("not an image")
        with pytest.raises(ImageError, match=r"notes\.jpg is not an image .* save it as JPEG or PNG"):
            read(tmp_path / "notes.jpg")

    def test_zero_bytes(self, tmp_path: Path, read: Read) -> None:
        (tmp_path / "empty.png").touch()
        with pytest.raises(ImageError, match=r"empty\.png is empty \(0 bytes\): copy or download"):
            read(tmp_path / "empty.png")
        with pytest.raises(ImageError, match="0 bytes is empty"):
            read(b"")

    def test_bytes_of_something_else(self, read: Read) -> None:
        with pytest.raises(ImageError, match="given as 9 bytes is not an image"):
            read(b"some text")

    @pytest.mark.filterwarnings("error")
    def test_too_large(self, tmp_path: Path, read: Read) -> None:
        path = write(tmp_path / "bomb.png", np.zeros((100_000, 3000), np.bool_))
        with pytest.raises(ImageError, match=r"has 300,000,000 pixels \(3000 x 100000\); the limit is 180,000,000: "):
            read(path)
        small = write(tmp_path / "small.png", np.zeros((10, 20), np.uint8))
        with pytest.raises(ImageError, match=r"200 pixels \(20 x 10\); the limit is 199: .*--max-pixels, max_pixels"):
            read(small, max_pixels=199)
        read(small, max_pixels=200)
        assert image_size(path, max_pixels=0) == (100_000, 3000)

    def test_postscript_is_refused_without_running_a_program(self, tmp_path: Path, read: Read) -> None:
        (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
        with pytest.raises(ImageError, match=r"a\.jpg is not an image that can be read"):
            read(tmp_path / "a.jpg")

    def test_a_pipe(self, tmp_path: Path, read: Read) -> None:
        os.mkfifo(tmp_path / "pipe.jpg")
        with pytest.raises(ImageError, match="is not a regular file"):
            read(tmp_path / "pipe.jpg")

    def test_damaged_avif(self, tmp_path: Path, read: Read) -> None:
        path = write(tmp_path / "a.avif", COLOURS.repeat(20, 0).repeat(20, 1))
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])
        if read is read_image:
            with pytest.raises(ImageError, match=r"a\.avif is (truncated|not an image)"):
                read(path)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
    def test_forbidden(self, tmp_path: Path, read: Read) -> None:
        path = write(tmp_path / "mine.png", COLOURS)
        path.chmod(0)
        with pytest.raises(ImageError, match=r"mine\.png may not be read"):
            read(path)


def test_size_equals_what_is_read_on_real_photos(shared: Path) -> None:
    paths = sorted((shared / "data" / "balloon" / "val").glob("*.jpg"))[:3]
    assert paths
    for path in paths:
        assert image_size(path) == tuple(read_image(path).shape[1:])


@pytest.mark.parametrize("suffix", ["jfif", "jpe", "mpo", "tga", "qoi", "sgi", "pcx", "ico", "dds", "jp2", "ppm"])
def test_every_format_of_pillow_is_read_whatever_its_name(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"a.{suffix}", COLOURS.repeat(8, 0).repeat(8, 1))
    other = path.rename(tmp_path / "a.bin")
    assert read_image(other).shape[0] == 3
    assert is_image(other) == (suffix != "tga")  # which has no signature


def test_heic(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif", reason="needs rcnn[heif]")
    flat = np.full((32, 48, 3), 90, np.uint8)
    heif.from_bytes("RGB", (48, 32), flat.tobytes()).save(tmp_path / "a.heic")
    image = read_image((tmp_path / "a.heic").rename(tmp_path / "a.jpg"))
    assert image.shape == (3, 32, 48)
    assert np.abs(as_array(image).astype(int) - 90).max() < 8


def test_heic_without_the_extra_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr("importlib.util.find_spec", find_nothing)
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(50))
    with pytest.raises(ImageError, match=r"a\.heic is a HEIC image.*pip install 'rcnn\[heif\]'"):
        read_image(tmp_path / "a.heic")
    assert is_image(tmp_path / "a.heic")


def test_a_name_with_heic_is_no_sign_of_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "HEIC photos"
    folder.mkdir()
    (folder / "notes.txt").write_text("not an image")
    assert not is_image(folder / "notes.txt")


def test_files_that_are_not_images(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty.txt").touch()
    assert not is_image(tmp_path / "notes.txt")
    assert not is_image(tmp_path / "empty.txt")
    assert not is_image(tmp_path)
