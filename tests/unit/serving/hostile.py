"""Bodies of requests that are no good images: truncated, mutated, bombs, other files. Each has a name."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP")
CUTS = (1, 4, 20, 40, 0.5, 0.9, -1)  # lengths of truncated files: bytes, shares, or bytes from the end
MUTANTS = 24  # per format
TEXTS = {
    "html": b"<html><img src=x onerror=alert(1)></html>",
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "xml entities": b'<!DOCTYPE a [<!ENTITY b "bb"><!ENTITY c "&b;&b;">]><a>&c;</a>',
    "json": b'{"imageData": "../../etc/passwd"}',
    "path": b"/etc/passwd",
    "url": b"http://127.0.0.1:1/x.png",
    "zeros": bytes(5000),
    "pickle": pickle.dumps({"a": 1}),
}


def encoded(kind: str, mode: str = "RGB", size: tuple[int, int] = (32, 24)) -> bytes:
    """An image file of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def corpus() -> Iterator[tuple[str, bytes]]:
    """Names and bodies; the same in each call."""
    generator = np.random.default_rng(1)
    for kind in FORMATS:
        whole = encoded(kind)
        for cut in CUTS:
            length = int(cut * len(whole)) if isinstance(cut, float) else cut % len(whole)
            yield f"{kind} cut to {length}", whole[:length]
        for number in range(MUTANTS):
            data = bytearray(whole)
            limit = len(data) if number % 2 else 64  # every other one in the header alone
            for place in generator.integers(0, limit, 1 + number % 5):
                data[place] = int(generator.integers(256))
            yield f"{kind} mutant {number}", bytes(data)
    yield from TEXTS.items()
    for width, height in ((0, 0), (0, 9), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1), (65_535, 65_535)):
        yield f"PNG of {width} x {height}", png(width, height, zlib.compress(b"\0" * 100))
        yield f"BMP of {width} x {height}", bmp(width, height)
    yield "PNG with 50 MB of text", png(4, 4, zlib.compress(b"\0" * 52), text=zlib.compress(bytes(50_000_000)))
    yield "PNG with more pixels than its size", png(4, 4, zlib.compress(bytes(50_000_000)))
    yield "PNG without pixels", png(4, 4, b"")
    yield "TIFF with a loop", b"II*\0\x08\0\0\0" + struct.pack("<HI", 0, 8)
    yield "TIFF of 4 billion entries", b"II*\0\x08\0\0\0\xff\xff" + bytes(40)
    yield "GIF without frames", b"GIF89a\xff\xff\xff\xff\0\0\0;"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb", bytes(10_000_000))
    yield "zip", archive.getvalue()


def png(width: int, height: int, pixels: bytes, text: bytes = b"") -> bytes:
    """A PNG (RGB) that claims a size, with compressed pixels and text."""
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))]
    parts += [(b"zTXt", b"a\0\0" + text)] if text else []
    parts += [(b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    )


def bmp(width: int, height: int) -> bytes:
    """A BMP that claims a size, with few pixels."""
    head = struct.pack("<IIIHHIIIIII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + head + bytes(100)
