"""Image files to pixels: the one module that decodes. Everything that Pillow reads becomes RGB uint8 (3, H, W).

What is decided here, once, for training, evaluation and prediction alike:
 - EXIF (or XMP) orientation is applied: an image is what a viewer shows, and so are its height and width;
 - transparency is dropped, not blended: the colours stored under it count, as in OpenCV's and Pillow's conversions, on
   which the peers' models were trained;
 - 16-bit samples are scaled to 8 bits (65535 -> 255), where Pillow's own conversion of grey ones cuts them off at 255;
 - of an animation or a multi-picture file, the first frame counts;
 - colour profiles are not applied, as no detector's training applied them; CMYK becomes RGB without one.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

ORIENTATION = 0x0112  # EXIF's tag
TURNS = {  # EXIF's value -> what brings the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)  # those that swap height and width
# what Pillow raises, by its decoders, for files that are cut off or damaged
DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)


class ImageError(ValueError):
    """A file that cannot be read as an image. The message names it, says what is wrong, and what to do."""


def read_image(source: str | Path | bytes) -> Tensor:
    """The image in a file, or in its encoded bytes: uint8 RGB (3, H, W), upright.

    The memory lies channels last, as decoders write it and resizing reads it. Raises FileNotFoundError where there is
    no file, ImageError where it is not an image, is cut off, too large, or of a kind whose range nobody can know.
    """
    with _opened(source) as image:
        try:
            image.load()
            pixels = _to_rgb(image, source)
            turn = TURNS.get(_orientation(image))
        except ImageError:
            raise
        except DAMAGED as error:
            raise _damaged(source, error) from error
        if turn is not None:
            pixels = pixels.transpose(turn)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def image_size(source: str | Path | bytes) -> tuple[int, int]:
    """(height, width) that `read_image` would give, from the head of the file. Raises the same errors."""
    with _opened(source) as image:
        width, height = image.size
        if image.format == "TIFF":  # whose size some versions of Pillow give upright already: take the stored one
            width, height = image.tag_v2[256], image.tag_v2[257]  # type: ignore[attr-defined]
        if image.format == "PNG" and "exif" not in image.info and not _has_late_exif(source):
            return height, width  # Pillow would decode all of a PNG in search of EXIF data behind the pixels
        try:
            sideways = _orientation(image) in SIDEWAYS
        except DAMAGED as error:
            raise _damaged(source, error) from error
    return (width, height) if sideways else (height, width)


def _opened(source: str | Path | bytes) -> Image.Image:
    """The file with its head read, its pixels not yet."""
    if isinstance(source, bytes):
        empty, file = len(source) == 0, io.BytesIO(source)
    else:
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: correct the path, or put the image there")
        if path.is_dir():
            raise ImageError(f"{path} is a folder, wanted an image file: name the files in it")
        empty, file = path.stat().st_size == 0, path
    if empty:
        raise ImageError(f"{_name(source)} is empty (0 bytes): copy or download it again, or take it out of the data")
    try:
        return Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"{_name(source)} is too large to decode safely ({error}): cut it into tiles or shrink it; "
            "if you trust it, raise PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{_name(source)} is not an image that can be read here: save it as JPEG or PNG "
            "(`rcnn doctor` lists the formats)"
        ) from error
    except PermissionError as error:
        raise ImageError(f"{_name(source)} may not be read: give yourself permission to (chmod u+r)") from error
    except DAMAGED as error:
        raise _damaged(source, error) from error


def _to_rgb(image: Image.Image, source: str | Path | bytes) -> Image.Image:
    """A decoded image of any mode as 8-bit RGB, not yet upright."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        eight = ((values * 255 + 32767) // 65535).astype(np.uint8)  # rounded, where a shift by 8 bits would darken
        return Image.fromarray(eight).convert("RGB")
    if image.mode in ("I", "F"):
        raise ImageError(
            f"{_name(source)} has 32-bit samples, whose range no file tells: save it with 8 or 16 bits a channel"
        )
    if image.mode in ("P", "PA", "RGBa", "La"):
        image = image.convert("LA" if image.mode == "La" else "RGBA")  # which keeps the colours under transparency
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise ImageError(f"{_name(source)} has colours of kind {image.mode}: save it as RGB or grey") from error


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 to 8; 1 where it is absent or not readable, as viewers do."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except DAMAGED:
        return 1


def _has_late_exif(source: str | Path | bytes) -> bool:
    """Whether a PNG may carry EXIF data behind its pixels (or the same words by chance, which costs only time)."""
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return b"eXIf" in data or b"Raw profile type exif" in data or b"XML:com.adobe.xmp" in data


def _damaged(source: str | Path | bytes, error: Exception) -> ImageError:
    cure = "copy or download it again, or take it out of the data"
    return ImageError(f"{_name(source)} is cut off or damaged ({error}): {cure}")


def _name(source: str | Path | bytes) -> str:
    return f"the image given as {len(source)} bytes" if isinstance(source, bytes) else str(source)
