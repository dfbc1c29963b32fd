"""Perceptual hashes: copies are found, other images are not, as a slow loop finds them."""

from __future__ import annotations

import tracemalloc
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rcnn.data.similarity import (
    NEAR,
    Fingerprint,
    fingerprint,
    fingerprints,
    has_near,
    low_contrast_groups,
    similar_groups,
    without_borders,
)


def photo(seed: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Coloured clouds of `size` (width, height): smooth noise, as photos have."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)


def test_copies_are_near_and_others_are_not(tmp_path: Path) -> None:
    for seed in range(12):
        photo(seed).save(tmp_path / f"{seed:02}.png")
    photo(0).save(tmp_path / "again.jpg", quality=40)
    photo(1).resize((160, 120)).save(tmp_path / "half.png")
    ImageEnhance.Brightness(photo(2)).enhance(0.9).save(tmp_path / "dark.png")
    paths = sorted(tmp_path.iterdir())
    steps: list[int] = []
    prints = fingerprints(paths, advance=lambda: steps.append(1))
    known = [(path.stem, one.perceptual_hash) for path, one in zip(paths, prints, strict=True)]
    found = {(a, b) for (a, first), (b, second) in combinations(known, 2) if has_near([first], [second]).all()}
    assert found == {("00", "again"), ("01", "half"), ("02", "dark")}
    assert len(steps) == len(paths)
    groups = similar_groups(prints)
    assert [paths[place].stem for place in groups.tolist()][-3:] == ["00", "02", "01"]


def test_real_photos_that_were_saved_again_are_near(shared: Path, tmp_path: Path) -> None:
    for file in sorted((shared / "data/coco449").rglob("*.jpg"))[:3]:
        original = Image.open(file).convert("RGB")
        known = fingerprint(file).perceptual_hash
        for quality, scale in ((10, 1.0), (75, 0.1), (30, 0.5), (90, 1.5)):
            again = original.resize((round(original.width * scale), round(original.height * scale)))
            again.save(tmp_path / "again.jpg", quality=quality)
            assert has_near([known], [fingerprint(tmp_path / "again.jpg").perceptual_hash]).all()


def test_an_exif_rotation_is_applied(tmp_path: Path) -> None:
    photo(3).save(tmp_path / "a.jpg")
    exif = Image.Exif()
    exif[0x0112] = 8
    photo(3).transpose(Image.Transpose.ROTATE_270).save(tmp_path / "b.jpg", exif=exif)
    hashes = [fingerprint(tmp_path / name).perceptual_hash for name in ("a.jpg", "b.jpg")]
    assert has_near(hashes[:1], hashes[1:]).all()


def test_plain_and_unreadable_images_have_no_look(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48), (90, 90, 90)).save(tmp_path / "plain.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    plain, broken = fingerprint(tmp_path / "plain.png"), fingerprint(tmp_path / "broken.jpg")
    assert (plain.perceptual_hash, broken.perceptual_hash) == (None, None)
    assert similar_groups([plain, plain, broken]).tolist() == [0, 1, 2]


def random_hashes(count: int) -> list[int | None]:
    """Random ones; every second is an earlier one with a few changed bits, some are None."""
    generator = np.random.default_rng(count)
    hashes: list[int | None] = []
    for place in range(count):
        one_hash = int(generator.integers(0, 2**63)) << 1
        if place % 2:
            one_hash = next(one for one in reversed(hashes) if one is not None)
            for bit in generator.integers(0, 64, generator.integers(0, 10)).tolist():
                one_hash ^= 1 << bit
        hashes.append(None if place % 17 == 5 else one_hash)
    return hashes


def is_near(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and (first ^ second).bit_count() <= NEAR


@pytest.mark.parametrize("count", [0, 1, 2, 200])
def test_near_hashes_and_groups_are_those_of_a_slow_loop(count: int) -> None:
    hashes = random_hashes(count)
    others = hashes[::3]
    expected = [any(is_near(one, other) for other in others) for one in hashes]
    assert has_near(hashes, others).tolist() == expected
    assert count < 3 or len(others) < sum(expected) < 150
    groups = list(range(count))
    for i, j in combinations(range(count), 2):
        if is_near(hashes[i], hashes[j]):
            joined = {groups[i], groups[j]}
            groups = [min(joined) if one in joined else one for one in groups]
    prints = [Fingerprint(content=str(place), perceptual_hash=one) for place, one in enumerate(hashes)]
    assert similar_groups(prints).tolist() == groups
    assert count < 3 or 30 < len(set(groups)) < 150


def test_frames_of_a_still_camera_need_little_memory() -> None:
    """2,000 frames are 2 million pairs: lists of them would take more than 200 MB."""
    bits = list(combinations(range(0, 64, 2), 2))[:400]
    hashes: list[int | None] = [(1 << a) | (1 << b) for a, b in bits] * 5
    tracemalloc.start()
    groups = similar_groups([Fingerprint(content=str(place), perceptual_hash=one) for place, one in enumerate(hashes)])
    found = has_near(hashes, hashes[:1000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert not groups.any()
    assert found.all()
    assert peak < 60e6


def test_groups_follow_chains() -> None:
    hashes = [0, 0b111111, 0b111111111111, 1 << 63 | 0xFFFF << 20]
    prints = [Fingerprint(content=str(place), perceptual_hash=one_hash) for place, one_hash in enumerate(hashes)]
    assert similar_groups(prints).tolist() == [0, 0, 0, 3]


def distance(first: int | None, second: int | None) -> int:
    assert first is not None
    assert second is not None
    return (first ^ second).bit_count()


@pytest.mark.parametrize("quality", [None, 60])
def test_mirrored_and_letterboxed_copies_have_the_hash_of_the_original(quality: int | None, tmp_path: Path) -> None:
    original, name = photo(4), "a.jpg" if quality else "a.png"

    def of(picture: Image.Image) -> Fingerprint:
        picture.save(tmp_path / name, quality=quality or 75)  # PNG ignores it
        return fingerprint(tmp_path / name)

    known = of(original)
    assert known.trimmed is None
    mirrored = of(original.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert distance(mirrored.mirrored, known.perceptual_hash) <= NEAR
    assert distance(mirrored.perceptual_hash, known.perceptual_hash) > NEAR
    for size, place in (((320, 320), (0, 40)), ((480, 240), (80, 0)), ((400, 300), (40, 10))):
        padded = Image.new("RGB", size, (114, 114, 114))
        padded.paste(original, place)
        found = of(padded.resize((size[0] * 2, size[1] * 2)))
        assert distance(found.trimmed, known.perceptual_hash) <= NEAR, size
        assert distance(found.perceptual_hash, known.perceptual_hash) > NEAR, size


def test_only_uniform_borders_are_removed() -> None:
    inner = np.random.default_rng(0).integers(0, 256, (40, 60), dtype=np.uint8)
    padded = np.pad(inner, ((10, 0), (3, 7)), constant_values=90)
    found = without_borders(padded)
    assert found is not None
    np.testing.assert_array_equal(found, inner)
    assert without_borders(inner) is None
    assert without_borders(np.pad(inner, 1, constant_values=90)[:, 1:-1]) is not None  # 2 of 42 rows
    assert without_borders(np.pad(inner, ((0, 1), (0, 0)), constant_values=90)) is None  # 1 of 41
    assert without_borders(np.full((40, 60), 7, np.uint8)) is None
    assert without_borders(np.pad(inner[:5, :5], 30)) is None  # nearly nothing is left


def test_faint_images_are_copies_only_if_their_files_are_equal(tmp_path: Path) -> None:
    for name, seed in (("a.png", 0), ("b.png", 0), ("c.png", 1)):
        noise = np.random.default_rng(seed).integers(100, 103, (48, 64), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / name)
    Image.new("L", (64, 48), 100).save(tmp_path / "d.png")
    Image.new("L", (64, 48), 100).save(tmp_path / "e.png")
    prints = fingerprints(sorted(tmp_path.iterdir()))
    assert [one.perceptual_hash for one in prints] == [None] * 5
    assert [one.low_contrast for one in prints] == [True, True, True, False, False]
    assert list(low_contrast_groups(prints)) == [[0, 1]]
    assert similar_groups(prints).tolist() == [0, 0, 2, 3, 4]
