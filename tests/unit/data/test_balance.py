"""Repeat-factor sampling: against the paper's formula in loops, and the frequency of images in the stream."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rcnn.data.balance import repeat_factors, spread
from rcnn.data.loading import BatchSampler, training_batches
from rcnn.data.records import Dataset
from tests.unit.training.noise_folders import Model, Settings, seven_images, take


def three_classes(folder: Path) -> Dataset:
    """Seven images: class 0 in all but the last, 1 in two, 2 in one; the crowd is of class 2 too."""
    dataset = seven_images(folder)
    labels = np.zeros_like(dataset.objects.labels)
    starts = dataset.objects.starts
    labels[starts[1]] = labels[starts[4]] = 1
    labels[dataset.objects.ignored] = 2
    labels[starts[0]] = 2
    return replace(dataset, classes=("common", "rare", "rarest"), objects=replace(dataset.objects, labels=labels))


def slow_factors(dataset: Dataset, threshold: float) -> list[float]:
    """Gupta et al. 2019, section 3.1, image by image."""
    present = [set(record.labels[~record.ignored].tolist()) for record in dataset]
    part = {c: sum(c in labels for labels in present) / len(present) for c in range(len(dataset.classes))}
    return [max([1.0, *(math.sqrt(threshold / part[c]) for c in labels)]) for labels in present]


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.5, 1.0])
def test_factors_equal_the_papers(tmp_path: Path, threshold: float) -> None:
    dataset = three_classes(tmp_path)
    np.testing.assert_allclose(repeat_factors(dataset, threshold), slow_factors(dataset, threshold))
    assert (repeat_factors(dataset, 0.0) == 1).all()
    assert len(set(repeat_factors(dataset, 1.0))) > 2  # or the data would show nothing


@given(
    factors=st.lists(st.floats(min_value=1, max_value=30), min_size=1, max_size=40),
    draw=st.floats(min_value=0, max_value=1, exclude_max=True),
)
def test_an_epoch_repeats_each_image_by_its_rounded_factor(factors: list[float], draw: float) -> None:
    values = np.array(factors)
    counts = np.bincount(spread(values, draw), minlength=len(values))
    assert counts.sum() == round(float(values.sum()))
    scaled = values * counts.sum() / values.sum()
    assert (np.abs(counts - scaled) < 1 + 1e-6).all()


def test_the_mean_number_of_repeats_is_the_factor() -> None:
    factors = np.array([1.0, 1.25, 3.5, 2.25])
    counts = sum(np.bincount(spread(factors, draw), minlength=4) for draw in (np.arange(100) + 0.5) / 100)
    np.testing.assert_allclose(counts / 100, factors, atol=0.02)


def test_rare_images_are_repeated_and_any_batch_can_be_computed_alone() -> None:
    wide = np.array([True, False, True, True, False])
    factors = np.array([1.0, 2.5, 1.0, 4.0, 1.5])
    order = BatchSampler(wide, batch_size=2, seed=3, factors=factors)
    batches = [order(n) for n in range(500)]  # 1000 places, 100 passes
    shown = Counter(image for batch in batches for image, _ in batch)
    np.testing.assert_allclose([shown[i] / 100 for i in range(5)], factors, atol=0.15)
    assert len({place for batch in batches for _, place in batch}) == 1000
    assert [BatchSampler(wide, 2, 3, factors)(n) for n in (499, 0, 77)] == [batches[499], batches[0], batches[77]]


def test_without_a_repeat_threshold_every_image_comes_equally_often(tmp_path: Path) -> None:
    dataset = three_classes(tmp_path)
    plain = take(training_batches(dataset, Model(), Settings()), 7)
    rare = take(training_batches(dataset, Model(), replace(Settings(), repeat_threshold=1.0)), 7)
    assert {image for batch in rare for image in batch.image_ids} <= set(dataset.image_ids)
    each = Counter(image for batch in plain for image in batch.image_ids)
    assert len(set(each.values())) == 1
    assert Counter(image for batch in rare for image in batch.image_ids) != each
