"""Targets: records to padded tensors, against slow loops, pycocotools and what the annotation files say."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from rcnn.data import Dataset, open_dataset
from rcnn.data.loading import training_batches
from rcnn.data.targets import (
    Masks,
    TargetOptions,
    capacity,
    collate_targets,
    make_sample,
    outline_edges,
    require_memory,
)
from rcnn.data.transforms import flip, preprocess
from rcnn.preprocess import InputConfig, build_preprocessor
from tests.narrow import instance, present
from tests.unit.data.coco_folders import annotation, coco_tables, write_coco
from tests.unit.training.noise_folders import SIZES, Model, Settings, seven_images, take, write_data

KEYPOINTS = TargetOptions(keypoints=True)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return seven_images(tmp_path)


class TestTargets:
    @pytest.mark.parametrize(
        ("count", "places"), [(0, 8), (1, 8), (8, 8), (9, 16), (64, 64), (65, 128), (500, 512), (513, 1024)]
    )
    def test_capacity_grows(self, count: int, places: int) -> None:
        assert capacity(count, 8) == places

    def test_objects_of_an_image(self, dataset: Dataset) -> None:
        record = dataset[0]
        sample = make_sample(record, torch.zeros(3, 40, 60, dtype=torch.uint8), TargetOptions())
        assert sample.boxes.tolist() == [[10, 10, 30, 30], [5, 5, 28, 28], [7, 10, 20, 18]]  # no crowd
        assert sample.labels.tolist() == [0, 0, 0]
        assert present(sample.outlines)[1].tolist() == [
            [5, 5, 15, 5, 0],
            [15, 5, 5, 12.5, 0],
            [5, 12.5, 5, 5, 0],
            [20, 20, 28, 20, 1],
            [28, 20, 28, 28, 1],
            [28, 28, 20, 20, 1],
        ]

    def test_crowds_are_kept_on_request(self, dataset: Dataset) -> None:
        record = dataset[0]
        image = torch.zeros(3, 40, 60, dtype=torch.uint8)
        sample = make_sample(record, image, TargetOptions(masks=None, crowds=True))
        crowds = present(sample.crowds)
        assert crowds.tolist() == [[0, 0, 60, 40]]
        assert sample.boxes.tolist() == [[10, 10, 30, 30], [5, 5, 28, 28], [7, 10, 20, 18]]
        [[x1, y1, x2, y2]] = crowds.tolist()
        assert present(flip(sample).crowds).tolist() == [[60 - x2, y1, 60 - x1, y2]]
        doubled, _ = preprocess(sample, build_preprocessor(InputConfig(min_size=80, max_size=120)))
        assert present(doubled.crowds).tolist() == [[2 * x1, 2 * y1, 2 * x2, 2 * y2]]
        without = replace(sample, crowds=torch.zeros(0, 4))
        assert present(collate_targets([without, sample], (64, 96)).crowds).tolist() == [
            [[0, 0, 0, 0], [0, 0, 0, 0]],
            [[x1, y1, x2, y2], [0, 0, 0, 0]],
        ]
        plain = make_sample(record, image, TargetOptions(masks=None))
        assert collate_targets([plain, sample], (64, 96)).crowds is None
        [batch] = take(
            training_batches(dataset, Model(), Settings(batch_size=len(SIZES)), targets=TargetOptions(crowds=True)), 1
        )
        assert int((present(batch.targets.crowds)[..., 2] > 0).sum()) >= 1

    def test_a_batch_knows_its_files(self, dataset: Dataset) -> None:
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=len(SIZES))), 1)
        by_id = {dataset[i].image_id: dataset[i] for i in range(len(dataset))}
        for i, image_id in enumerate(batch.image_ids):
            record = by_id[image_id]
            assert present(batch.images.originals)[i].tolist() == [record.height, record.width]
            height, width = batch.images.sizes[i].tolist()
            expected = (height * width / (record.height * record.width)) ** 0.5
            assert abs(float(present(batch.images.scales)[i]) - expected) < 1e-5

    def test_the_scale_of_an_image_on_a_canvas_is_that_of_the_image(self, dataset: Dataset) -> None:
        config = InputConfig(min_size=40, max_size=64, canvas=64)
        batches = training_batches(dataset, config, Settings(batch_size=len(SIZES)))
        [batch] = take(batches, 1)
        # by hand: the shorter side becomes 40, unless the longer one would exceed 64
        resized = [(40, 60), (60, 40), (40, 56), (40, 40), (64, 40), (32, 64), (64, 33)]
        factors = [  # between the centres of the first and the last pixel
            ((new[0] - 1) * (new[1] - 1) / ((old[0] - 1) * (old[1] - 1))) ** 0.5
            for old, new in zip(SIZES, resized, strict=True)
        ]
        expected = {record.image_id: factor for record, factor in zip(dataset, factors, strict=True)}
        assert dict(zip(batch.image_ids, present(batch.images.scales).tolist(), strict=True)) == pytest.approx(expected)

    def test_run_lengths_become_outlines(self, dataset: Dataset) -> None:
        edges = outline_edges(dataset[0].segmentations[-1])
        upright = edges[edges[:, 0] == edges[:, 2]]
        found = np.zeros((40, 60), bool)
        for y, x in itertools.product(range(40), range(60)):  # even-odd: edges crossed on the way from the left
            low, high = np.minimum(upright[:, 1], upright[:, 3]), np.maximum(upright[:, 1], upright[:, 3])
            found[y, x] = ((upright[:, 0] < x + 0.5) & (low < y + 0.5) & (high > y + 0.5)).sum() % 2
        expected = np.zeros((40, 60), bool)
        expected[10:13, 7:20] = expected[15:18, 9:12] = True
        np.testing.assert_array_equal(found, expected)

    def test_bitmaps_equal_pycocotools(self, dataset: Dataset) -> None:
        record = dataset[0]
        sample = make_sample(record, torch.zeros(3, 40, 60, dtype=torch.uint8), TargetOptions(masks="bitmap"))
        assert sample.outlines is None
        parts = [part.tolist() for part in instance(record.segmentations[1], tuple)]
        expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 40, 60)))
        np.testing.assert_array_equal(present(sample.bitmaps)[1].numpy(), expected.astype(bool))
        assert present(sample.bitmaps)[2].sum() == 3 * 13 + 3 * 3
        targets = collate_targets([sample], (64, 96))
        assert present(targets.bitmaps).shape == (1, 8, 64, 96)
        assert present(targets.bitmaps).sum() == present(sample.bitmaps).sum()

    def test_batch(self, dataset: Dataset) -> None:
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=len(SIZES))), 1)
        targets = batch.targets
        assert targets.boxes.shape == (7, 8, 4)
        assert present(targets.polygons).shape == (7, 8, 128, 5)
        counts: dict[int | str, int] = {1: 3, 7: 0}
        for row, image_id in enumerate(batch.image_ids):
            record = next(record for record in dataset if record.image_id == image_id)
            count = counts.get(image_id, 1)
            assert targets.valid[row].tolist() == [True] * count + [False] * (8 - count)
            height, width = batch.images.sizes[row].tolist()
            scale = np.array([width / record.width, height / record.height] * 2)
            np.testing.assert_allclose(targets.boxes[row, :count], record.boxes[~record.ignored] * scale, rtol=1e-6)
            edges = (present(targets.polygons)[row, ..., 4] >= 0).sum(1).tolist()
            assert edges[:count] == ([4, 6, 8] if image_id == 1 else [4])[:count]
            assert sum(edges[count:]) == 0

    def test_only_requested_targets_are_built(self, dataset: Dataset) -> None:
        [batch] = take(training_batches(dataset, Model(), Settings(), targets=TargetOptions(masks=None)), 1)
        assert (batch.targets.polygons, batch.targets.bitmaps, batch.targets.keypoints) == (None, None, None)

    def test_five_hundred_objects_are_kept(self, tmp_path: Path) -> None:
        dataset = write_data(tmp_path / "d", [annotation(n) for n in range(1, 501)], sizes=[(40, 60)])
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=1)), 1)
        assert batch.targets.valid.shape == (1, 512)
        assert batch.targets.valid.sum() == 500

    def test_an_outline_of_many_edges_is_kept(self, tmp_path: Path) -> None:
        angle = np.arange(300) * 2 * np.pi / 300
        circle = np.column_stack([20 + 10 * np.cos(angle), 20 + 10 * np.sin(angle)]).reshape(-1).tolist()
        dataset = write_data(tmp_path / "d", [annotation(1, segmentation=[circle])], sizes=[(40, 60)])
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=1)), 1)
        edges = present(batch.targets.polygons)[0, 0]
        assert edges.shape == (512, 5)
        assert (edges[:, 4] >= 0).tolist() == [True] * 300 + [False] * 212
        twice_area = (edges[:300, 0] * edges[:300, 3] - edges[:300, 2] * edges[:300, 1]).sum().item()
        assert twice_area / 2 == pytest.approx(np.pi * 100, rel=1e-3)

    def test_an_object_without_outline_trains_the_box_only(self, tmp_path: Path) -> None:
        bare = [annotation(1), annotation(2, segmentation=None)]
        dataset = write_data(tmp_path / "d", bare, sizes=[(40, 60)])
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=1)), 1)
        assert batch.targets.valid[0, :3].tolist() == [True, True, False]
        assert (present(batch.targets.polygons)[0, :2, :, 4] >= 0).sum(1).tolist() == [4, 0]

    def test_masks_need_segmentations(self, tmp_path: Path) -> None:
        dataset = write_data(tmp_path / "d", [annotation(1, segmentation=None)])
        with pytest.raises(ValueError, match=r"instances_val\.json has boxes but no segmentations.*without masks"):
            training_batches(dataset, Model(), Settings())
        assert take(training_batches(dataset, Model(), Settings(), targets=TargetOptions(masks=None)), 1)

    def test_keypoints_are_at_the_center_of_their_pixel(self, tmp_path: Path) -> None:
        points = [10, 12, 2, 20, 15, 1, 0, 0, 0]
        names = {"keypoints": ["left_eye", "right_eye", "nose"]}
        dataset = write_data(tmp_path / "d", [annotation(1, keypoints=points)], sizes=[(40, 60)], **names)
        straight, flipped = (
            take(training_batches(dataset, Model(), Settings(batch_size=1, flip=flip), targets=KEYPOINTS), 1)[0]
            for flip in (0.0, 1.0)
        )
        assert present(straight.targets.keypoints)[0, 0].tolist() == [[10.5, 12.5, 2], [20.5, 15.5, 1], [0, 0, 0]]
        assert present(flipped.targets.keypoints)[0, 0].tolist() == [[39.5, 15.5, 1], [49.5, 12.5, 2], [0, 0, 0]]
        for one, (x, y) in ((straight, (10, 12)), (flipped, (49, 12))):
            pixel = np.array(Image.open(dataset[0].path))[12, 10].tolist()
            assert one.images.pixels[0, :, y, x].tolist() == pixel

    def test_unnamed_keypoints_are_not_flipped(self, tmp_path: Path) -> None:
        dataset = write_data(tmp_path / "d", [annotation(1, keypoints=[10, 12, 2])], sizes=[(40, 60)])
        with pytest.raises(ValueError, match=r"does not name its keypoints.*train\.flip=0"):
            training_batches(dataset, Model(), Settings(flip=0.5), targets=KEYPOINTS)
        assert take(training_batches(dataset, Model(), Settings(flip=0.0), targets=KEYPOINTS), 1)


@pytest.mark.parametrize(
    ("masks", "count", "corners", "gibibytes"),
    [("polygon", 10_000, 4, 0), ("polygon", 10_000, 20_000, 10), ("bitmap", 900, 4, 0), ("bitmap", 10_000, 4, 16.3)],
)
def test_masks_of_very_many_objects_are_bounded(
    tmp_path: Path, masks: Masks, count: int, corners: int, gibibytes: float
) -> None:
    turns = np.linspace(0, 2 * np.pi, corners, endpoint=False)
    ring = np.stack([20 + 10 * np.cos(turns), 20 + 10 * np.sin(turns)], axis=1).reshape(-1).tolist()
    annotations = [
        annotation(n, image_id=2, bbox=None, segmentation=[ring if n == 7 else ring[:6]]) for n in range(count)
    ]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations)), "val")
    if not gibibytes:
        require_memory(dataset, masks, 800 * 1333)
        return
    with pytest.raises(ValueError, match=r"image 2 \(2\.png\) has 10000 objects\. Their masks need .* GiB") as error:
        require_memory(dataset, masks, 800 * 1333)
    assert f"need {gibibytes:.1f} GiB" in str(error.value)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_run_lengths_have_at_most_two_edges_per_byte(tmp_path: Path, seed: int) -> None:
    """Noise, noise in blocks, and a disc: the edges that `require_memory` counts are not fewer than the real ones."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:40, :60]
    masks = [
        generator.random((40, 60)) < 0.5,
        (generator.random((8, 12)) < 0.5).repeat(5, 0).repeat(5, 1),
        (rows - 20) ** 2 + (columns - 30) ** 2 < 15**2,
    ]
    rles = [coco_mask.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    annotations = [
        annotation(n, bbox=None, segmentation={"size": [40, 60], "counts": rle["counts"].decode()})
        for n, rle in enumerate(rles)
    ]
    dataset = open_dataset(write_coco(tmp_path, coco_tables(annotations)), "val")
    bounds = dataset.objects.outlines.edges.tolist()
    real = [len(outline_edges(one)) for one in dataset[0].segmentations]
    assert len(real) == 3
    assert all(count <= bound for count, bound in zip(real, bounds, strict=True)), (real, bounds)


def test_crowds_take_no_memory_and_run_lengths_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.asfortranarray(np.random.default_rng(0).integers(0, 2, (40, 60), dtype=np.uint8))
    rle = {"size": [40, 60], "counts": coco_mask.encode(noise)["counts"].decode()}
    monkeypatch.setattr("rcnn.data.targets.MAX_BYTES", 20 * 8 * 256)
    for crowd in (0, 1):
        annotations = [annotation(1), annotation(2, iscrowd=crowd, segmentation=rle)]
        dataset = open_dataset(write_coco(tmp_path / str(crowd), coco_tables(annotations)), "val")
        if crowd:
            require_memory(dataset, "polygon", 800 * 1333)
        else:
            with pytest.raises(ValueError, match=r"has 2 objects. Their masks need"):
                require_memory(dataset, "polygon", 800 * 1333)
