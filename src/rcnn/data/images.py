"""Decodes image files; other modules decode only through this one. All formats become uint8 RGB (3, H, W).

These rules hold for training, evaluation and prediction:
 - EXIF (or XMP) orientation is applied: height and width are those that an image viewer shows;
 - transparency is dropped, not blended, as OpenCV and Pillow do for the images that other systems were trained on;
 - 16-bit samples are scaled to 8 bits (65535 -> 255); Pillow's own conversion of grey images would clip them at 255;
 - the first frame of an animation or multi-page file is used;
 - colour profiles are not applied, because no detector was trained with them; CMYK is converted without a profile;
 - the format is detected from the content, never from the file name. Formats that Pillow passes to another program
   (PostScript) are refused;
 - a labelme file (.json) is the image that is embedded in it (imageData).

Images of ids (a class or an instance per pixel) are read by `read_ids`, without any conversion.

Memory: decoding needs about 10 bytes per pixel. Images of more than MAX_PIXELS are refused before they are decoded.
"""

from __future__ import annotations

import base64
import functools
import importlib.util
import io
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from rcnn.arguments import require_max_pixels, shown, why_no_path
from rcnn.data.decoded import Decoded
from rcnn.data.jpeg import decode_jpeg
from rcnn.text_files import missing_text

# suffixes of images, for finding them without opening files; the content decides what a file is
IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".jp2", ".j2k", ".jpx", ".avif", ".heic", ".heif", ".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".ico", ".psd", ".qoi",
    ".sgi", ".pcx",
)  # fmt: skip
MAX_PIXELS = 180_000_000  # default limit: about 1.8 GB while decoding
REDUCING_GAP = 2  # least factor by which an image that is decoded at a fraction of its size is resized (Pillow's own)
ORIENTATION = 0x0112  # EXIF tag
TRANSPOSE_OF_EXIF = {  # EXIF value -> the operation that makes the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SWAPS_SIDES = (5, 6, 7, 8)  # EXIF values that swap height and width
COMMON_FORMATS = ("BMP", "DIB", "GIF", "JPEG", "PPM", "PNG")  # Pillow imports some 40 modules for all others
# EPS and WMF start other programs or system renderers; the others are only identified by Pillow, never decoded
REFUSED_FORMATS = ("EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG")
LOSSY_FORMATS = ("JPEG", "MPO", "WEBP")  # lossy compression changes ids
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # at byte 8 of the file
EMBEDDED = ".json"  # suffix of labelme files
Source = str | Path | bytes

_pillow_limit = threading.Lock()  # Pillow's own limit is one global variable


class ImageError(ValueError):
    """An image that cannot be read. The message says which one, what is wrong, and what to do.

    `problem` is the message without `advice`, which clients of a service cannot follow.
    """

    def __init__(self, problem: str, advice: str = "") -> None:
        super().__init__(f"{problem}: {advice}" if advice else problem)
        self.problem = problem


class MissingHeifError(ImageError):
    """A HEIC image that cannot be read because the optional decoder is not installed."""


def read_image(source: Source | IO[bytes], *, max_pixels: int = MAX_PIXELS) -> Tensor:
    """Decode an image file, or its encoded bytes: uint8 RGB (3, H, W), upright, channels last in memory.

    An open file is read from its position to its end. Raises FileNotFoundError if there is no file, ValueError for a
    file that is open as text or has no bytes left, and ImageError if it is not an image, is damaged, has more than
    `max_pixels` (0: no limit), or has samples of an unknown range.
    """
    if not isinstance(source, (str, os.PathLike, bytes)):
        source = _content(source)
    with _open(source, max_pixels) as image:
        return _decoded(image, source)


def read_resized(source: Source, size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> Decoded:
    """An image that training resizes to `size` (height, width); a large JPEG file is already resized.

    Large JPEG files are decoded at 1/2, 1/4 or 1/8 of their size, but not below REDUCING_GAP times `size`, and resized
    with antialiasing. That takes half of Pillow's time, and the pixels differ by .1 to .6 of 255 on average. Others are
    returned as by `read_image`. Raises the same errors.
    """
    with _open(source, max_pixels) as image:
        stored, swapped = image.size, _orientation(image) in SWAPS_SIDES
        if image.format in ("JPEG", "MPO") and image.mode == "RGB":
            width, height = size if swapped else size[::-1]  # as the file stores it
            reduced = image.draft("RGB", (REDUCING_GAP * width, REDUCING_GAP * height))
            if reduced is not None and image.size != stored:
                box = reduced[1]  # of the file's image; the decoded one ends at a whole pixel
                pixels = decode(
                    image,
                    shown_name(source),
                    lambda pixels: pixels.resize((width, height), Image.Resampling.BILINEAR, box=box),
                )
                return Decoded(pixels, file_size=stored if swapped else stored[::-1])
        return Decoded(_decoded(image, source))


def is_open_file(value: object) -> bool:
    """Whether `value` is an open file: what `open` returns, BytesIO, a file of a web framework."""
    return callable(getattr(value, "read", None))


def decode(
    image: Image.Image, name: str, change: Callable[[Image.Image], Image.Image] = lambda pixels: pixels
) -> Tensor:
    """The pixels of a Pillow image of any mode: uint8 RGB (3, H, W), upright. Raises ImageError, which gives `name`.

    `change` is applied to the RGB image before it is turned upright.
    """
    try:
        image.load()
        pixels = change(_to_rgb(image, name))
        turn = TRANSPOSE_OF_EXIF.get(_orientation(image))
        upright = pixels if turn is None else pixels.transpose(turn)
        return torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    except ImageError:
        raise
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise _unreadable(name, error, image) from error


def image_size(source: Source, *, max_pixels: int = MAX_PIXELS, late_exif: bool = True) -> tuple[int, int]:
    """(height, width) of what `read_image` returns, from the file's header.

    `late_exif`: False does not read a whole PNG to find a rotation in EXIF data behind its pixels, which are rare.
    Raises the same errors, except those about the pixels, which are not decoded.
    """
    with _open(source, max_pixels) as image:
        width, height = image.size
        if image.format == "TIFF":  # some versions of Pillow return the upright size: take the stored one
            width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
        if image.format == "PNG" and "exif" not in image.info and not (late_exif and _has_late_exif(source)):
            return height, width  # Pillow would decode the whole PNG to look for EXIF data behind the pixels
        swapped = _orientation(image) in SWAPS_SIDES
    return (width, height) if swapped else (height, width)


def read_ids(source: Source, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The ids (H, W) int64 in an image of ids: grey values, palette indices, or R + 256 G + 65536 B.

    Raises FileNotFoundError if there is no file, and ImageError if it is not an image, is damaged, or has a format
    that cannot hold ids (JPEG, floating point).
    """
    name = shown_name(source)
    with _open(source, max_pixels) as image:
        if image.format in LOSSY_FORMATS or image.mode in ("F", "CMYK", "YCbCr", "LAB", "HSV"):
            raise ImageError(
                f"{name} is a {image.format} with colour mode {image.mode}, which cannot hold ids: save it as a grey, "
                "palette or RGB PNG"
            )
        try:
            image.load()
            values = np.asarray(image).astype(np.int64)
        except Exception as error:  # decoders raise many types of errors for damaged files
            raise _unreadable(name, error, image) from error
        if image.mode in ("RGB", "RGBA", "RGBX"):
            return values[..., 0] + 256 * values[..., 1] + 65536 * values[..., 2]
        return values[..., 0] if values.ndim == 3 else values  # grey or palette, with or without transparency


def read_grey(source: Source, side: int, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A grey copy (H, W) uint8 of what `read_image` returns.

    JPEG files are decoded at a fraction of their size, but with sides of at least `side` pixels if they have them: that
    is several times as fast. Raises the same errors.
    """
    with _open(source, max_pixels) as image:
        image.draft("L", (side, side))
        pixels = decode(image, shown_name(source)).permute(1, 2, 0).numpy()
    return np.asarray(Image.fromarray(pixels).convert("L"))


def is_image(path: Path) -> bool:
    """Whether a file's header is that of an image that `read_image` reads, with all optional decoders installed.

    A labelme file does not count, although an image may be embedded in it.
    """
    if path.suffix.lower() == EMBEDDED:
        return False
    try:
        with _open(path, max_pixels=0) as image:
            return image.format != "TGA"  # TGA has no signature: text files are taken for it
    except MissingHeifError:
        return True
    except (ImageError, OSError):
        return False


def _content(file: IO[bytes]) -> bytes:
    """The bytes of an open file, from its position on. Raises ValueError if they are text, or if none are left."""
    if not is_open_file(file):
        raise ValueError(f"got a {type(file).__name__}; expected a path, the bytes of an image file, or an open file")
    name = getattr(file, "name", None)
    shown = f"the file {name}" if isinstance(name, str) else f"the {type(file).__name__}"
    data: object = "" if isinstance(file, io.TextIOBase) else file.read()
    if not isinstance(data, bytes):
        fault = "is open as text" if isinstance(data, str) else f"gives a {type(data).__name__} when it is read"
        raise ValueError(f"{shown} {fault}; expected a binary file: open(path, 'rb')")
    if not data:
        raise ValueError(f"{shown} has no bytes after its position; expected an image: call .seek(0) first")
    return data


def _open(source: Source, max_pixels: float) -> Image.Image:
    """The image with its header read; its pixels are not decoded yet."""
    require_max_pixels(max_pixels)
    name = shown_name(source)
    try:
        head = _head(source)
    except PermissionError as error:
        raise ImageError(f"{name} cannot be read: permission denied (try chmod u+r)") from error
    if not head:
        raise ImageError(f"{name} is empty (0 bytes): copy or download it again, or remove it")
    if isinstance(source, (str, Path)) and is_embedded(Path(source)):
        source = embedded_image(Path(source))
        head = source[:16]
    heif = head[4:8] == b"ftyp" and head[8:12] in HEIF_BRANDS
    if heif and importlib.util.find_spec("pillow_heif") is None:
        raise MissingHeifError(f"{name} is a HEIC image, which needs an extra", "pip install 'rcnn[heif]'")
    try:
        image = _open_without_limit(io.BytesIO(source) if isinstance(source, bytes) else Path(source), heif)
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name} is not an image that can be read", "save it as JPEG or PNG (`rcnn doctor` lists the formats)"
        ) from error
    except Exception as error:  # decoders raise many types of errors for damaged files
        raise _unreadable(name, error) from error
    pixels = image.width * image.height
    if max_pixels and pixels > max_pixels:
        image.close()
        raise ImageError(
            f"{name} has {pixels:,} pixels ({image.width} x {image.height}); the limit is {max_pixels:,.12g}",
            "cut it into tiles, shrink it, or raise the limit (--max-pixels, max_pixels)",
        )
    return image


def _head(source: Source) -> bytes:
    """The first bytes of a regular file, or of `source` itself."""
    if isinstance(source, bytes):
        return source[:16]
    path = Path(source)
    if reason := why_no_path(str(path)):
        raise FileNotFoundError(f"{shown(str(path), 60)} {reason}: check the path")
    if not path.exists():
        advice = "a pattern is not expanded here, glob.glob lists its files" if "*" in str(path) else "check the path"
        raise FileNotFoundError(f"{path} {missing_text(Path(path))}: {advice}")
    if path.is_dir():
        raise ImageError(f"{path} is a folder; expected an image file: give the files in it")
    if not path.is_file():  # a pipe or device could block for ever
        raise ImageError(f"{path} is not a regular file; expected an image file")
    with path.open("rb") as file:
        return file.read(16)


def is_embedded(path: Path) -> bool:
    """Whether a file is, by its suffix, a labelme file with an embedded image."""
    return path.suffix.lower() == EMBEDDED


def _encoded(path: Path) -> bytes:
    """The encoded image in a file."""
    return embedded_image(path) if is_embedded(path) else path.read_bytes()


def embedded_image(path: Path) -> bytes:
    """The encoded image in a labelme file. Raises ImageError for a file without one."""
    try:
        return base64.b64decode(json.loads(path.read_bytes())["imageData"], validate=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ImageError(
            f"{path} is not an image, nor a labelme file with an image in it (imageData): give the image file"
        ) from error


def image_suffix(content: bytes) -> str:
    """The usual suffix of the file of an encoded image, e.g. ".jpg". Raises ImageError if it cannot be read."""
    with _open(content, max_pixels=0) as image:
        name = (image.format or "image").lower()
    return {"jpeg": ".jpg", "mpo": ".jpg"}.get(name, f".{name}")


def _decoded(image: Image.Image, source: Source) -> Tensor:
    """The pixels of an image that was opened from `source`."""
    if image.format == "JPEG" and image.mode == "RGB" and not _is_turned_by_xmp(image):
        pixels = decode_jpeg(source if isinstance(source, bytes) else _encoded(Path(source)))
        if pixels is not None:
            return pixels
    return decode(image, shown_name(source))


def _open_without_limit(file: Path | io.BytesIO, heif: bool) -> Image.Image:
    """`Image.open` without Pillow's own limit and warnings: `max_pixels` replaces them."""
    if heif:
        import pillow_heif

        pillow_heif.register_heif_opener()
    with _pillow_limit:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            if heif:
                return Image.open(file, formats=["HEIF"])
            try:
                Image.preinit()
                return Image.open(file, formats=COMMON_FORMATS)
            except UnidentifiedImageError:
                return Image.open(file, formats=_formats())
        finally:
            Image.MAX_IMAGE_PIXELS = limit


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in REFUSED_FORMATS)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    """A decoded image of any mode as 8-bit RGB, not upright yet."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        eight = ((values * 255 + 32767) // 65535).astype(np.uint8)  # rounded; a shift by 8 bits would darken
        return Image.fromarray(eight).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(f"{name} has 32-bit samples of unknown range: save it with 8 or 16 bits per channel")
    if image.mode in ("P", "PA", "RGBa", "La"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")  # keeps the colours of transparent pixels
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{name} has colour mode {image.mode}: save it as RGB or grey") from error


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; 1 if it is missing or unreadable, as in image viewers."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF data raises many types of errors
        return 1


def _is_turned_by_xmp(image: Image.Image) -> bool:
    """Whether a JPEG image has its orientation in XMP data and not in EXIF data: Pillow reads both, torchcodec EXIF."""
    if b"tiff:Orientation" not in image.info.get("xmp", b""):
        return False
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
    except Exception:  # broken EXIF data raises many types of errors
        return True
    return ORIENTATION not in exif


def _has_late_exif(source: Source) -> bool:
    """Whether a PNG may have EXIF data behind its pixels (or the same words by chance, which only costs time)."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return b"eXIf" in data or b"Raw profile type exif" in data or b"XML:com.adobe.xmp" in data


def _unreadable(name: str, error: Exception, image: Image.Image | None = None) -> ImageError:
    """What an error of a decoder means; `image`: the image, if its header was read."""
    if isinstance(error, MemoryError):
        size = "" if image is None else f" ({image.width} x {image.height} pixels)"
        return ImageError(f"{name}{size} does not fit in memory: shrink it or cut it into tiles")
    reason = str(error) or type(error).__name__
    return ImageError(f"{name} is truncated or damaged ({reason})", "copy or download it again, or remove it")


def shown_name(source: Source) -> str:
    """How messages name `source`."""
    return f"the image given as {len(source)} bytes" if isinstance(source, bytes) else str(source)
