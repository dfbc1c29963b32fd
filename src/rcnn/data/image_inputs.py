"""Converts what users pass as an image (path, bytes, file, array, Pillow image, tensor) to uint8 RGB (3, H, W)."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from rcnn.arguments import is_one_of, plain, require_max_pixels, shown
from rcnn.data.images import MAX_PIXELS, decode, is_open_file, read_image
from rcnn.data.records import ImageRecord

ImageInput: TypeAlias = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | npt.NDArray[np.uint8]
    | Image.Image
    | Tensor
    | ImageRecord
)
Channels = Literal["rgb", "bgr"]

ACCEPTED = (
    "a path (str or Path), encoded bytes, a binary file, a Pillow image, a numpy array uint8 (H, W), (H, W, 1), "
    "(H, W, 3) or (H, W, 4), a tensor uint8 (3, H, W), or an ImageRecord of a data set"
)


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """The image that detections belong to, read again when it is drawn."""

    image: ImageInput
    channels: Channels = "rgb"
    max_pixels: int = 0  # 0: no limit

    def read(self) -> Tensor:
        """The image, uint8 RGB (3, H, W). Raises the errors of `as_image`."""
        return as_image(self.image, channels=self.channels, max_pixels=self.max_pixels)


def is_one_image(value: object) -> bool:
    """Whether `value` is a single image, and not several. Raises ValueError if it is neither."""
    if isinstance(
        value, (str, os.PathLike, bytes, bytearray, memoryview, np.ndarray, Image.Image, Tensor, ImageRecord)
    ):
        return True
    if is_open_file(value):
        return True
    unsuitable = (Mapping, Set)  # the keys of a mapping are not images, and a set has no order
    if isinstance(value, Iterable) and not isinstance(value, unsuitable) and not _is_sample(value):
        return False
    raise ValueError(f"got {_kind(value)}; expected {ACCEPTED}, or a list of these")


def image_of_list(value: object, index: int, *, channels: Channels = "rgb", max_pixels: int = MAX_PIXELS) -> Tensor:
    """Like `as_image`, for image `index` of several; errors about a value that is not a path start with the index."""
    try:
        return as_image(value, channels=channels, max_pixels=max_pixels)
    except ValueError as error:
        if isinstance(value, (str, os.PathLike)):
            raise  # the message has the path
        raise ValueError(f"image {index}: {error}") from error


def as_image(value: object, *, channels: Channels = "rgb", max_pixels: int = MAX_PIXELS) -> Tensor:
    """One image as uint8 RGB (3, H, W), upright, on the CPU.

    `channels` is the order of the colours in arrays and tensors: "bgr" for frames from OpenCV. Files and Pillow images
    know their own order. Alpha is dropped. An array or tensor of the right type shares its memory with the result.
    A file is read from its position to its end.

    Raises FileNotFoundError for a missing file, ValueError (ImageError for files) for all other unusable values.
    """
    require_channels(channels)
    require_max_pixels(max_pixels)
    if isinstance(value, bytes | bytearray | memoryview):
        return read_image(bytes(value), max_pixels=max_pixels)
    if isinstance(value, (str, os.PathLike)):
        path = os.fsdecode(value)  # a path may be bytes, as in os.scandir(b"folder")
        if path.startswith(("http://", "https://")):
            raise ValueError(f"{path} is a URL; expected a file: download it and pass its bytes, or use `rcnn predict`")
        if not path:
            raise ValueError("got an empty text; expected an image file")
        return read_image(Path(path), max_pixels=max_pixels)
    if isinstance(value, ImageRecord):  # before files, because it can be read, too
        return value.read(max_pixels=plain(max_pixels))
    if is_open_file(value):
        return read_image(cast("IO[bytes]", value), max_pixels=max_pixels)
    if isinstance(value, Image.Image):
        if min(value.size) < 1:
            raise ValueError(f"the Pillow image is empty ({value.width} x {value.height}); expected at least 1 x 1")
        return decode(value, "the Pillow image")
    if isinstance(value, Tensor):
        return _from_tensor(value, channels)
    if isinstance(value, np.ndarray):
        return _from_array(value, channels)
    raise ValueError(f"got {_kind(value)}; expected {ACCEPTED}")


def require_channels(channels: str) -> None:
    """Raise ValueError unless `channels` is "rgb" or "bgr"."""
    if not is_one_of(channels, get_args(Channels)):
        raise ValueError(f"channels={shown(channels, 60)} is not known; expected 'rgb' or 'bgr' (OpenCV)")


def _from_array(array: npt.NDArray[Any], channels: Channels) -> Tensor:
    got = f"the array is {array.shape} of {array.dtype}"
    expected = "expected uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)"
    if array.dtype != np.uint8:
        advice = _advice(array.dtype.kind, array, "astype(np.uint8)")
        raise ValueError(f"{got}; {expected} with values 0..255{advice}")
    if array.size == 0:
        raise ValueError(f"{got}, which has no pixels; {expected}")
    if array.ndim == 4:
        raise ValueError(f"{got}; {expected}: pass several images as a list, e.g. list(images)")
    if array.ndim not in (2, 3):
        raise ValueError(f"{got}; {expected}")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        first = array.shape[0] in (1, 3, 4)
        hint = ": channels come last in arrays, use np.moveaxis(image, 0, -1)" if first else ""
        raise ValueError(f"{got}; {expected}{hint}")
    if array.ndim == 2 or array.shape[2] == 1:
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    array = array[:, :, 2::-1] if channels == "bgr" else array[:, :, :3]
    if not array.flags.writeable or any(stride < 0 for stride in array.strides):
        array = array.copy()  # what torch cannot share
    return torch.from_numpy(np.asarray(array)).permute(2, 0, 1)


def _from_tensor(tensor: Tensor, channels: Channels) -> Tensor:
    got = f"the tensor is {tuple(tensor.shape)} of {str(tensor.dtype).removeprefix('torch.')}"
    expected = "expected uint8 (3, H, W)"
    if tensor.is_meta:
        raise ValueError(f"{got} on the device meta, which has no values; {expected} on the CPU or a GPU")
    if tensor.layout != torch.strided:
        raise ValueError(f"{got} and sparse ({tensor.layout}); {expected}: convert with image.to_dense()")
    if tensor.dtype != torch.uint8:
        kind = "f" if tensor.is_floating_point() else "b" if tensor.dtype == torch.bool else "i"
        advice = "" if tensor.is_complex() else _advice(kind, tensor.detach().cpu().double().numpy(), "to(torch.uint8)")
        raise ValueError(f"{got}; {expected} with values 0..255{advice}")
    if tensor.ndim == 4:
        raise ValueError(f"{got}; {expected}: pass several images as a list, e.g. list(images)")
    if tensor.ndim != 3 or tensor.shape[0] != 3:
        hint = ": use image.permute(2, 0, 1)" if tensor.ndim == 3 and tensor.shape[2] == 3 else ""
        raise ValueError(f"{got}; {expected}{hint}")
    if tensor.numel() == 0:
        raise ValueError(f"{got}, which has no pixels; {expected}")
    tensor = tensor.detach().cpu()
    return tensor.flip(0) if channels == "bgr" else tensor


def _advice(kind: str, values: npt.NDArray[Any], method: str) -> str:
    """How to convert `values` to uint8 with a call of `method`; `kind` is their `dtype.kind` in numpy."""
    if kind not in "fiub" or not values.size:
        return ""
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return ": some values are not finite (NaN or infinite); correct them first"
    rounded = ".round()" if kind == "f" else ""
    if kind == "b" or (kind == "f" and low >= 0 and high <= 1):
        return f": for values in 0..1, convert with (255 * image){rounded}.{method}"
    if low >= 0 and high <= 255:
        return f": the values fit, convert with image{rounded}.{method}"
    return f": the values are {low:g} to {high:g}; scale them to 0..255, then convert with .{method}"


def _is_sample(value: object) -> bool:
    """Whether `value` is (image, dict of its objects), what torchvision's data sets return."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[1], Mapping)


def _kind(value: object) -> str:
    if _is_sample(value):
        return "an image with a dict of its objects, as data sets of torchvision return: pass the image alone"
    return "None" if value is None else f"a {type(value).__name__}"
