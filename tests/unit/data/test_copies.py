"""Which images of several splits are copies: those that a slow loop over all pairs finds."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from rcnn.data import Dataset, open_dataset
from rcnn.data.inspect.images import ImageFile, changed_copies, copy_findings, find_copies
from rcnn.data.similarity import NEAR, Fingerprint
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco

SPLITS = ("test", "train", "unlabeled", "val")
IMAGES = 30


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> list[Dataset]:
    """The last image of each split is listed twice."""
    root = tmp_path_factory.mktemp("copies")
    for split in SPLITS:
        tables = coco_tables([annotation(1)], images=IMAGES)
        tables["images"][-1]["file_name"] = tables["images"][-2]["file_name"]
        write_coco(root, tables, split)
    return [open_dataset(root, split) for split in SPLITS]


def files(seed: int) -> list[list[ImageFile]]:
    """Images of few scenes; each differs from its scene in some bits, or shows it mirrored or with borders."""
    generator = np.random.default_rng(seed)
    scenes = [int(one) for one in generator.integers(0, 2**63, 60)]

    def look() -> int:
        changed = sum(1 << int(bit) for bit in generator.permutation(64)[: generator.integers(0, 6)])
        return scenes[int(generator.integers(len(scenes)))] ^ changed

    def image(place: int) -> ImageFile:
        faint = place % 7 == 0
        found = Fingerprint(
            content=f"{generator.integers(12) if faint else generator.integers(2**40)}",
            perceptual_hash=None if faint else look(),
            mirrored=look() if place % 5 == 1 else None,
            trimmed=look() if place % 5 == 2 else None,
            low_contrast=faint,
        )
        return ImageFile(size=(40, 60), print=found)

    own = [[image(place) for place in range(IMAGES)] for _ in SPLITS]
    return [[*one[:-1], one[-2]] for one in own]  # the same file


def is_near(first: int | None, second: int | None) -> bool:
    return first is not None and second is not None and (first ^ second).bit_count() <= NEAR


def is_copy(a: Fingerprint, b: Fingerprint) -> bool:
    same = a.low_contrast and b.low_contrast and a.content == b.content
    return same or is_near(a.perceptual_hash, b.perceptual_hash)


@pytest.mark.parametrize("seed", range(4))
def test_copies_are_those_of_all_pairs(datasets: list[Dataset], seed: int) -> None:
    own = files(seed)
    copies = find_copies(datasets, own)
    prints = [[one.print for one in split] for split in own]
    expected: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    for i in range(len(SPLITS)):
        names = datasets[i].file_names
        pairs = [
            (a, b)
            for a, b in combinations(range(IMAGES), 2)
            if names[a] != names[b] and is_copy(prints[i][a], prints[i][b])
        ]
        within = sorted({place for pair in pairs for place in pair})
        expected[i, i] = (within, within)
        [found] = [one for one in copies if one.splits == (i, i)]
        assert found.example == min(pairs)
    for i, j in ((0, 1), (1, 3)):  # test and train, train and val
        pairs = [(a, b) for a in range(IMAGES) for b in range(IMAGES) if is_copy(prints[i][a], prints[j][b])]
        expected[i, j] = (sorted({a for a, _ in pairs}), sorted({b for _, b in pairs}))
    assert {one.splits: (one.first, one.second) for one in copies} == expected
    assert all(0 < len(places) < IMAGES for pair in expected.values() for places in pair)
    assert [one.kind for one in copy_findings(datasets, copies)].count("leak") == 2

    for i, j, finding in zip((0, 1), (1, 3), changed_copies(datasets, own, copies), strict=True):
        evaluation, training = (prints[i], prints[j]) if j == 1 else (prints[j], prints[i])
        looks = [look for one in training for look in (one.perceptual_hash, one.trimmed)]
        changed = [
            place
            for place, one in enumerate(evaluation)
            if any(is_near(mine, look) for mine in (one.trimmed, one.mirrored, one.perceptual_hash) for look in looks)
        ]
        copied = expected[i, j][0 if j == 1 else 1]
        dataset = datasets[i if j == 1 else j]
        assert list(finding.ids) == [dataset.image_ids[place] for place in changed if place not in copied]
