"""JPEG images decoded by torchcodec, if it is installed (pip install 'rcnn[fast]'): Pillow's pixels, in less time."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

from torch import Tensor


def decode_jpeg(content: bytes) -> Tensor | None:
    """The pixels of a JPEG file, uint8 RGB (3, H, W), upright, channels last in memory.

    None if torchcodec is not installed, or cannot decode the file: Pillow then decodes it, or raises the error.
    """
    decode = _decoder()
    if decode is None:
        return None
    try:
        pixels = decode(content)
    except (RuntimeError, ValueError):
        return None
    assert isinstance(pixels, Tensor)
    return pixels.permute(1, 2, 0).contiguous().permute(2, 0, 1)


@functools.cache
def _decoder() -> Callable[[bytes], Tensor | list[Tensor]] | None:
    if importlib.util.find_spec("torchcodec") is None:
        return None
    try:
        from torchcodec.decoders import decode_jpeg as decode
    except (ImportError, OSError, RuntimeError):  # built for another version of torch
        return None
    return decode
