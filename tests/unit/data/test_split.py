"""Division of a data set: shares per class, copies together, the same result whatever the names."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from rcnn.data import open_dataset
from rcnn.data.similarity import Fingerprint
from rcnn.data.split import ClassCounts, assign, class_counts, divide, divide_images
from tests.tiny_data import write_tiny_coco


def prints(count: int) -> list[Fingerprint]:
    hashes = np.random.default_rng(7).integers(0, 2**63, count).tolist()
    return [Fingerprint(content=f"{one_hash:016x}", perceptual_hash=one_hash) for one_hash in hashes]


def table(counts: np.ndarray) -> ClassCounts:
    image, label = counts.nonzero()
    images, classes = counts.shape
    return ClassCounts.of(images, classes, image, label, counts[image, label])


@pytest.mark.parametrize("fractions", [(0.8, 0.2), (0.7, 0.2, 0.1), (0.5, 0.5)])
def test_every_class_gets_its_share(fractions: tuple[float, ...]) -> None:
    generator = np.random.default_rng(1)
    chances = np.array([0.9, 0.5, 0.2, 0.1, 0.05])
    counts = generator.poisson(chances, (400, 5))
    parts = divide_images(table(counts), prints(400), fractions)
    assert sorted(place for part in parts for place in part) == list(range(400))
    for part, fraction in zip(parts, fractions, strict=True):
        share = counts[part].sum(axis=0) / counts.sum(axis=0)
        assert np.abs(share - fraction).max() < 0.06
        assert abs(len(part) / 400 - fraction) < 0.05


def test_a_class_of_three_objects_is_in_both_parts() -> None:
    counts = np.zeros((20, 2), dtype=np.int64)
    counts[:, 0] = 1
    counts[[3, 11, 15], 1] = 1
    train, val = divide_images(table(counts), prints(20), (0.8, 0.2))
    assert len({3, 11, 15} & set(train)) == 2
    assert len({3, 11, 15} & set(val)) == 1
    assert len(val) == 4


def test_a_class_of_one_image_is_in_the_largest_part() -> None:
    counts = np.ones((20, 3), dtype=np.int64)
    counts[:, 1:] = 0
    counts[[2, 5, 9], 1] = 1
    counts[9, 2] = 50  # a class of many objects in one image, which has a rare class too
    for seed in range(10):
        shuffled = [prints(20)[place] for place in np.random.default_rng(seed).permutation(20).tolist()]
        train, val = divide_images(table(counts), shuffled, (0.8, 0.2))
        assert (9 in train, len(val), len({2, 5} & set(val))) == (True, 4, 1)


def test_both_parts_have_images_where_every_image_has_its_own_class() -> None:
    assert [len(part) for part in divide_images(table(np.eye(10, dtype=np.int64)), prints(10), (0.8, 0.2))] == [8, 2]


def test_images_with_few_objects_do_not_fill_the_validation_part() -> None:
    """As in 24 photos of COCO: a few crowded images have most objects, which go to training."""
    objects = np.array([[30], [25], [20], [10], *[[1]] * 20])
    train, val = divide_images(table(objects), prints(24), (0.8, 0.2))
    assert len(val) <= 24 * (0.2 + 0.05) + 1
    assert len(train) <= 24 * (0.8 + 0.05) + 1


def test_copies_stay_together() -> None:
    known = prints(30)
    known[1::3] = [
        Fingerprint(content=f"copy {i}", perceptual_hash=one.perceptual_hash) for i, one in enumerate(known[0::3])
    ]
    train, val = divide_images(table(np.ones((30, 1), dtype=np.int64)), known, (0.75, 0.25))
    for place in range(0, 30, 3):
        assert (place in train) == (place + 1 in train)
    assert 6 <= len(val) <= 9


def test_the_first_objects_of_a_group_computed_by_hand() -> None:
    objects = np.array([[4, 0], [1, 0], [1, 1], [2, 1], [0, 0]])
    part = assign(table(objects), np.ones(5, dtype=np.int64), (0.5, 0.5))
    # class 1 is rarer: groups 2 and 3 go to parts 0 and 1; class 0 then lacks 3 and 2 objects, so group 0 goes to 0
    assert part.tolist()[:4] == [0, 1, 0, 1]


@pytest.mark.parametrize("count", [20, 60, 300])
def test_parts_get_their_share_of_images_and_of_every_class(count: int) -> None:
    """Also where photos have 0 to 8 objects: rules for the objects alone hold out up to 41% of such photos for 20%."""
    generator = np.random.default_rng(count)
    objects = np.stack([generator.multinomial(n, [0.6, 0.3, 0.1]) for n in generator.integers(0, 9, count)])
    part = assign(table(objects), np.ones(count, dtype=np.int64), (0.8, 0.2))
    assert abs((part == 1).mean() - 0.2) <= 1 / count
    share = objects[part == 1].sum(0) / objects.sum(0)
    assert np.all(abs(share - 0.2) <= objects.max(0) / objects.sum(0)), "within the objects of one image"


def test_the_share_of_a_few_real_photos(shared: Path) -> None:
    for name, split, expected in (("fruits_nuts", "trainval", 4), ("balloon", "train", 12)):
        dataset = open_dataset(shared / "data" / name, split)
        counts = class_counts(dataset)
        held = divide(dataset, (0.8, 0.2))[1]
        assert len(held) == expected
        assert np.allclose(counts.totals(held) / counts.totals(), 0.2, atol=0.02)


def test_counts_are_added_up_per_image_group_and_class() -> None:
    counts = table(np.array([[2, 0, 1], [0, 0, 0], [1, 0, 3]]))
    assert (counts.image.tolist(), counts.label.tolist(), counts.count.tolist()) == (
        [0, 0, 2, 2],
        [0, 2, 0, 2],
        [2, 1, 1, 3],
    )
    assert (counts.totals().tolist(), counts.totals([1, 2]).tolist()) == ([3, 0, 4], [1, 0, 3])
    groups = counts.grouped(np.array([1, 0, 1]), 2)
    assert (groups.image.tolist(), groups.label.tolist(), groups.count.tolist()) == ([1, 1], [0, 2], [3, 4])


def test_memory_does_not_grow_with_images_times_classes() -> None:
    """As for LVIS: a full table of these counts would need 80 MB."""
    images, classes = 1_000, 10_000
    generator = np.random.default_rng(2)
    image, label = np.repeat(np.arange(images), 3), generator.integers(0, classes, 3 * images)
    tracemalloc.start()
    part = assign(
        ClassCounts.of(images, classes, image, label, np.ones(3 * images)), np.ones(images, dtype=np.int64), (0.8, 0.2)
    )
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5e6
    assert set(part.tolist()) == {0, 1}


def test_the_result_does_not_depend_on_file_names(tmp_path: Path) -> None:
    root = write_tiny_coco(tmp_path, {"train": 20}, objects=2)
    dataset = open_dataset(root, "train")
    steps: list[int] = []
    parts = divide(dataset, (0.8, 0.2), advance=lambda: steps.append(1))
    assert len(steps) == 20
    assert [len(part) for part in parts] == [16, 4]
    counts = class_counts(dataset)
    assert counts.totals().sum() == dataset.num_training_objects
    contents = [{dataset[place].path.read_bytes() for place in part} for part in parts]
    text = (root / "annotations" / "instances_train.json").read_text()
    for number in range(1, 21):
        (root / "train" / f"train_{number}.png").rename(root / "train" / f"x{99 - number}.png")
        text = text.replace(f'"train_{number}.png"', f'"x{99 - number}.png"')
    (root / "annotations" / "instances_train.json").write_text(text)
    renamed = open_dataset(root, "train")
    again = [{renamed[place].path.read_bytes() for place in part} for part in divide(renamed, (0.8, 0.2))]
    assert again == contents


@pytest.mark.parametrize("fractions", [(1.0,), (0.5, 0.4), (1.2, -0.2), (0.5, float("nan")), ()])
def test_other_fractions_are_refused(fractions: tuple[float, ...], tmp_path: Path) -> None:
    dataset = open_dataset(write_tiny_coco(tmp_path, {"train": 2}), "train")
    with pytest.raises(ValueError, match=r"expected two or more positive numbers that add up to 1, e\.g\. 0\.8, 0\.2"):
        divide(dataset, fractions)
