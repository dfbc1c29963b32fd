"""Which images are copies of each other: by their bytes, and by what they show.

The perceptual hash is pHash (Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"): the
signs of the 64 lowest frequencies of a small grey copy of the image. Copies that were resized, compressed again or
brightened differ in a few bits, other photos in about half of them. Mirrored copies have the hash of the mirrored
image, and copies with uniform borders (letterboxed ones) that of the image without its borders. Parts of an image
(crops) have other hashes and are not found. Images with too little contrast for a hash are copies only if their files
are equal.

Letters: I images, N hashes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn.background import DaemonThreads
from rcnn.data.images import ImageError, embedded_image, is_embedded, read_grey

SIDE, FREQUENCIES = 32, 8  # side of the grey copy, pixels; frequencies in the hash, per direction
BITS = FREQUENCIES * FREQUENCIES
NEAR = 6  # of 64 bits: copies differ in up to this many
MIN_CONTRAST = 8.0  # grey levels between the darkest and the brightest pixel of the copy; below, the hash is noise
FLAT = 12  # grey levels within a row or column of a uniform border, which compression makes uneven
MIN_BORDER, MIN_LEFT = 0.03, 0.25  # fractions of a side: borders that count, and what remains between them
_CHUNK = 1 << 20  # pairs compared at a time: tens of MB, however many images are copies


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What identifies an image."""

    content: str  # SHA-256 of the image file, or of the image embedded in a labelme file; hexadecimal
    perceptual_hash: int | None  # 64 bits; None for an image that cannot be read or has too little contrast
    mirrored: int | None = None  # the same of the image that is flipped left to right
    trimmed: int | None = None  # the same of the image without its uniform borders; None if it has none
    low_contrast: bool = False  # no perceptual hash, but more than one colour: equal files are copies
    error: str = ""  # why the image cannot be read


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of an image file. Raises OSError if the file cannot be read."""
    content = content_hash(path)
    try:
        grey = read_grey(path, 2 * SIDE)
    except ImageError as error:
        return Fingerprint(content=content, perceptual_hash=None, error=str(error))
    small, inner = _small(grey), without_borders(grey)
    found = perceptual_hash(small)
    return Fingerprint(
        content=content,
        perceptual_hash=found,
        low_contrast=found is None and bool(np.ptp(grey)),
        mirrored=perceptual_hash(small[:, ::-1]),
        trimmed=None if inner is None else perceptual_hash(_small(inner)),
    )


def _small(grey: np.ndarray) -> np.ndarray:
    """A grey image (H, W) uint8, resized to a square (SIDE, SIDE)."""
    return np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BOX))


def without_borders(grey: np.ndarray) -> np.ndarray | None:
    """A grey image (H, W) without the rows, then without the columns, of one grey level at its edges.

    None if there are no such borders of at least MIN_BORDER of a side, or if nearly nothing is left.
    """
    rows = np.flatnonzero(np.ptp(grey, axis=1) > FLAT)
    inner = grey[rows[0] : rows[-1] + 1] if len(rows) else grey[:0]
    columns = np.flatnonzero(np.ptp(inner, axis=0) > FLAT) if len(rows) else rows
    inner = inner[:, columns[0] : columns[-1] + 1] if len(columns) else inner[:, :0]
    left = [side / whole for side, whole in zip(inner.shape, grey.shape, strict=True)]
    return inner if MIN_LEFT <= min(left) <= 1 - MIN_BORDER else None


def content_hash(path: Path) -> str:
    """SHA-256 of an image file, hexadecimal; for a labelme file with an embedded image, of that image.

    Raises OSError if the file cannot be read.
    """
    if is_embedded(path):
        with suppress(ImageError):
            return hashlib.sha256(embedded_image(path)).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprints(
    paths: Sequence[Path], *, workers: int = 2, advance: Callable[[], None] | None = None
) -> list[Fingerprint]:
    """The fingerprints of image files, read by `workers` threads; `advance` is called once per image."""
    found: list[Fingerprint] = []
    with DaemonThreads(workers) as pool:
        for one in pool.map(fingerprint, paths):
            found.append(one)
            if advance is not None:
                advance()
    return found


def perceptual_hash(grey: np.ndarray) -> int | None:
    """The perceptual hash of a grey image (SIDE, SIDE) uint8; None if it has too little contrast."""
    pixels = grey.astype(np.float64)
    if pixels.max() - pixels.min() < MIN_CONTRAST:
        return None
    wave = np.cos(math.pi / SIDE * np.outer(np.arange(FREQUENCIES), np.arange(SIDE) + 0.5))  # DCT-II
    low = (wave @ pixels @ wave.T).reshape(-1)
    bits = low > np.median(low[1:])  # the first is the mean brightness
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def has_near(hashes: Sequence[int | None], others: Sequence[int | None], distance: int = NEAR) -> np.ndarray:
    """Whether each of `hashes` differs in up to `distance` bits from one of `others`: (N,) bool; False for None."""
    indices, own = _known(hashes)
    values, place = np.unique(own, return_inverse=True)
    known = np.unique(_known(others)[1])
    near = np.zeros(len(values), dtype=bool)
    for rows, columns in _compared(values, known, distance):
        rows = rows[~near[rows]]
        near[rows] = (_bit_count(values[rows, None] ^ known[columns]) <= distance).any(axis=1)
    found = np.zeros(len(hashes), dtype=bool)
    found[indices] = near[place]
    return found


def _known(hashes: Sequence[int | None]) -> tuple[np.ndarray, np.ndarray]:
    """The indices (N,) int64 of the hashes that are not None, and these hashes (N,) uint64."""
    known = [(index, one) for index, one in enumerate(hashes) if one is not None]
    return np.array([i for i, _ in known], dtype=np.int64), np.array([one for _, one in known], dtype=np.uint64)


def _compared(values: np.ndarray, others: np.ndarray, distance: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Indices into `values` and into `others`, all pairs of which are to be compared; few pairs at a time.

    Hashes (uint64) that differ in up to D bits are equal in at least one of D + 1 groups of bits: only those are
    compared.
    """
    edges = np.linspace(0, BITS, distance + 2).round().astype(int).tolist()
    for low, high in pairwise(edges):
        bands = [(one >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1) for one in (values, others)]
        orders = [np.argsort(band, kind="stable") for band in bands]
        ordered = [band[order] for band, order in zip(bands, orders, strict=True)]
        both = np.intersect1d(ordered[0], ordered[1])
        starts = [np.searchsorted(one, both).tolist() for one in ordered]
        ends = [np.searchsorted(one, both, side="right").tolist() for one in ordered]
        for row, last_row, column, last_column in zip(starts[0], ends[0], starts[1], ends[1], strict=True):
            step = max(1, _CHUNK // (last_column - column))
            for start in range(row, last_row, step):
                yield orders[0][start : min(start + step, last_row)], orders[1][column:last_column]


def _bit_count(values: np.ndarray) -> np.ndarray:
    """Number of set bits of each uint64 (Warren, Hacker's Delight, section 5-1)."""
    one, two, four = (np.uint64(v) for v in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
    values = values - ((values >> np.uint64(1)) & one)
    values = (values & two) + ((values >> np.uint64(2)) & two)
    values = (values + (values >> np.uint64(4))) & four
    return (values * np.uint64(0x0101010101010101)) >> np.uint64(56)


def low_contrast_groups(prints: Sequence[Fingerprint]) -> Iterator[list[int]]:
    """The indices, ascending, of low-contrast images with equal files; they have no perceptual hash."""
    places: dict[str, list[int]] = {}
    for index, one in enumerate(prints):
        if one.low_contrast:
            places.setdefault(one.content, []).append(index)
    return (same for same in places.values() if len(same) > 1)


def similar_groups(prints: Sequence[Fingerprint]) -> np.ndarray:
    """The group (I,) int64 of each image: the index of the first image among its copies, and the copies of copies.

    Images of a single colour (all black, or empty tiles) are groups of their own, even if their files are equal: they
    are not copies of one scene. So are images that cannot be read, because nothing is known of them.
    """
    group = np.arange(len(prints))
    for same in low_contrast_groups(prints):
        group[same] = same[0]
    indices, hashes = _known([one.perceptual_hash for one in prints])
    values, place = np.unique(hashes, return_inverse=True)
    label = np.arange(len(values))  # the smallest index into `values` in the group of each value
    for rows, columns in _compared(values, values, NEAR):
        if (label[columns] == label[rows[0]]).all() and (label[rows] == label[rows[0]]).all():
            continue  # frames of a still camera: most are of one group after the first rows
        near = _bit_count(values[rows, None] ^ values[columns]) <= NEAR
        row, column = np.nonzero(near & (label[rows, None] != label[columns]))
        _join(label, rows[row], columns[column])
    first = np.full(len(values), len(prints))
    np.minimum.at(first, label[place], indices)
    group[indices] = first[label[place]]
    return group


def _join(label: np.ndarray, first: np.ndarray, second: np.ndarray) -> None:
    """Join the groups of `first[i]` and `second[i]` in `label` (N,), which has the smallest member of each group."""
    while len(first):
        low, high = np.minimum(label[first], label[second]), np.maximum(label[first], label[second])
        np.minimum.at(label, high, low)
        while ((shorter := label[label]) != label).any():
            label[:] = shorter
        differ = label[first] != label[second]
        first, second = first[differ], second[differ]
