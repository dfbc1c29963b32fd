"""Batches: padding, targets and the stream, against slow loops, pycocotools and what the annotation files say."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import pickle
import signal
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask

from rcnn.data import Dataset, open_dataset
from rcnn.data.images import ImageError
from rcnn.data.loader import Batches, Order, TrainingBatch, pad_images, padded_shape, training_batches
from rcnn.data.targets import capacity, collate_targets, make_sample, outline_edges
from tests.unit.coco_folders import annotation

SIZES = [(40, 60), (60, 40), (40, 56), (50, 50), (64, 40), (30, 60), (60, 31)]  # height, width


@dataclass(frozen=True, kw_only=True)
class Settings:
    batch_size: int = 2
    padding: str = "exact"
    workers: int = 0
    seed: int = 0
    flip: float = 0.0
    scales: tuple[int, ...] = ()
    jitter: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Model:
    min_size: int = 40
    max_size: int = 80
    resize: str = "antialias"
    divisor: int = 32


def write_data(root: Path, annotations: list[dict], sizes: list[tuple[int, int]] = SIZES, **category) -> Dataset:
    """Noise pictures 1, 2, .. of `sizes`, and their annotations in COCO's layout."""
    (root / "annotations").mkdir(parents=True)
    (root / "val").mkdir()
    images = []
    for number, (height, width) in enumerate(sizes, start=1):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "val" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
    tables = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "kite"} | category]}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(tables))
    return open_dataset(root, "val")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One object in every image but the last; the first has three and a crowd."""
    annotations = [annotation(number, image_id=number) for number in range(1, len(SIZES))]
    triangle = [[5, 5, 15, 5, 5, 12.5], [20, 20, 28, 20, 28, 28]]
    annotations.append(annotation(20, segmentation=triangle, bbox=[5, 5, 23, 23]))
    crowd = {"size": [40, 60], "counts": [0, 2400]}
    annotations.append(annotation(21, segmentation=crowd, bbox=[0, 0, 60, 40], iscrowd=1))
    mask = np.zeros((40, 60), np.uint8, order="F")
    mask[10:13, 7:20] = mask[15:18, 9:12] = 1
    rle = coco_mask.encode(mask)
    annotations.append(annotation(22, segmentation=rle | {"counts": rle["counts"].decode()}, bbox=[7, 10, 13, 8]))
    return write_data(tmp_path / "data", annotations)


def take(stream, count: int) -> list[TrainingBatch]:
    return list(itertools.islice(stream, count))


def tensors(batch: TrainingBatch) -> list[torch.Tensor]:
    found = [batch.images.pixels, batch.images.sizes]
    targets = batch.targets
    return found + [v for v in (targets.boxes, targets.labels, targets.valid, targets.polygons) if v is not None]


def assert_same(one: list[TrainingBatch], other: list[TrainingBatch]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.image_ids == b.image_ids
        for x, y in zip(tensors(a), tensors(b), strict=True):
            assert torch.equal(x, y)


class TestPadding:
    @pytest.mark.parametrize(("divisor", "shape"), [(32, (64, 96)), (0, (40, 65)), (1, (40, 65)), (50, (50, 100))])
    def test_exact(self, divisor, shape):
        images = [torch.full((3, 40, 60), 7, dtype=torch.uint8), torch.full((3, 33, 65), 9, dtype=torch.uint8)]
        batch = pad_images(images, divisor=divisor, padding="exact")
        assert batch.pixels.shape == (2, 3, *shape)
        assert batch.pixels.dtype == torch.uint8
        assert batch.sizes.tolist() == [[40, 60], [33, 65]]
        for slot, image in zip(batch.pixels, images, strict=True):
            _, height, width = image.shape
            assert torch.equal(slot[:, :height, :width], image)
            assert slot.sum() == image.sum()

    def test_floats_stay_floats(self):
        image = torch.rand(3, 10, 12) * 255
        batch = pad_images([image], divisor=0, padding="exact")
        assert torch.equal(batch.pixels[0], image)

    @pytest.mark.parametrize(
        ("size", "shape"),
        [
            ((800, 800), (832, 960)),
            ((800, 1067), (832, 1152)),
            ((800, 1199), (832, 1344)),
            ((800, 1333), (832, 1344)),
            ((1333, 800), (1344, 832)),
            ((320, 427), (320, 448)),
            ((480, 320), (512, 320)),
            ((3, 5), (64, 64)),
        ],
    )
    def test_bucket(self, size, shape):
        assert padded_shape([size], 32, "bucket") == shape

    def test_buckets_are_few_and_hold_their_images(self):
        sizes = [(800, width) for width in range(800, 1334)] + [(height, 800) for height in range(800, 1334)]
        shapes = Counter()
        for height, width in sizes:
            shape = padded_shape([(height, width)], 32, "bucket")
            assert shape[0] >= height
            assert shape[1] >= width
            assert shape[0] * shape[1] < 1.27 * height * width
            shapes[shape] += 1
        assert len(shapes) == 6

    @pytest.mark.parametrize("divisor", [32, 48, 128])
    def test_buckets_honour_the_divisor(self, divisor):
        shape = padded_shape([(500, 700)], divisor, "bucket")
        assert [side % divisor for side in shape] == [0, 0]

    def test_no_images(self):
        with pytest.raises(ValueError, match="no images"):
            pad_images([], divisor=32, padding="exact")


class TestTargets:
    @pytest.mark.parametrize(
        ("count", "places"), [(0, 8), (1, 8), (8, 8), (9, 16), (64, 64), (65, 128), (500, 512), (513, 1024)]
    )
    def test_capacity_grows(self, count, places):
        assert capacity(count, 8) == places

    def test_objects_of_an_image(self, dataset):
        record = dataset[0]
        sample = make_sample(record, torch.zeros(3, 40, 60, dtype=torch.uint8), masks="polygon", keypoints=False)
        assert sample.boxes.tolist() == [[10, 10, 30, 30], [5, 5, 28, 28], [7, 10, 20, 18]]  # no crowd
        assert sample.labels.tolist() == [0, 0, 0]
        assert sample.outlines[1].tolist() == [
            [5, 5, 15, 5, 0],
            [15, 5, 5, 12.5, 0],
            [5, 12.5, 5, 5, 0],
            [20, 20, 28, 20, 1],
            [28, 20, 28, 28, 1],
            [28, 28, 20, 20, 1],
        ]

    def test_run_lengths_become_the_line_around_them(self, dataset):
        edges = outline_edges(dataset[0].segmentations[-1])
        upright = edges[edges[:, 0] == edges[:, 2]]
        found = np.zeros((40, 60), bool)
        for y, x in itertools.product(range(40), range(60)):  # even-odd: edges crossed on the way from the left
            low, high = np.minimum(upright[:, 1], upright[:, 3]), np.maximum(upright[:, 1], upright[:, 3])
            found[y, x] = ((upright[:, 0] < x + 0.5) & (low < y + 0.5) & (high > y + 0.5)).sum() % 2
        expected = np.zeros((40, 60), bool)
        expected[10:13, 7:20] = expected[15:18, 9:12] = True
        np.testing.assert_array_equal(found, expected)

    def test_bitmaps_are_pycocotools(self, dataset):
        record = dataset[0]
        sample = make_sample(record, torch.zeros(3, 40, 60, dtype=torch.uint8), masks="bitmap", keypoints=False)
        assert sample.outlines is None
        parts = [part.tolist() for part in record.segmentations[1]]
        expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(parts, 40, 60)))
        np.testing.assert_array_equal(sample.bitmaps[1].numpy(), expected.astype(bool))
        assert sample.bitmaps[2].sum() == 3 * 13 + 3 * 3
        targets = collate_targets([sample], (64, 96))
        assert targets.bitmaps.shape == (1, 8, 64, 96)
        assert targets.bitmaps.sum() == sample.bitmaps.sum()

    def test_batch(self, dataset):
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=len(SIZES))), 1)
        targets = batch.targets
        assert targets.boxes.shape == (7, 8, 4)
        assert targets.polygons.shape == (7, 8, 128, 5)
        counts = {1: 3, 7: 0}
        for row, image_id in enumerate(batch.image_ids):
            record = next(record for record in dataset if record.image_id == image_id)
            count = counts.get(image_id, 1)
            assert targets.valid[row].tolist() == [True] * count + [False] * (8 - count)
            height, width = batch.images.sizes[row].tolist()
            scale = np.array([width / record.width, height / record.height] * 2)
            np.testing.assert_allclose(targets.boxes[row, :count], record.boxes[~record.crowd] * scale, rtol=1e-6)
            edges = (targets.polygons[row, ..., 4] >= 0).sum(1).tolist()
            assert edges[:count] == ([4, 6, 8] if image_id == 1 else [4])[:count]
            assert sum(edges[count:]) == 0

    def test_nothing_is_built_that_is_not_asked_for(self, dataset):
        [batch] = take(training_batches(dataset, Model(), Settings(), masks=None), 1)
        assert (batch.targets.polygons, batch.targets.bitmaps, batch.targets.keypoints) == (None, None, None)

    def test_five_hundred_objects_are_all_there(self, tmp_path):
        dataset = write_data(tmp_path / "d", [annotation(n) for n in range(1, 501)], sizes=[(40, 60)])
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=1)), 1)
        assert batch.targets.valid.shape == (1, 512)
        assert batch.targets.valid.sum() == 500

    def test_an_outline_of_many_edges_is_whole(self, tmp_path):
        angle = np.arange(300) * 2 * np.pi / 300
        circle = np.column_stack([20 + 10 * np.cos(angle), 20 + 10 * np.sin(angle)]).reshape(-1).tolist()
        dataset = write_data(tmp_path / "d", [annotation(1, segmentation=[circle])], sizes=[(40, 60)])
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=1)), 1)
        edges = batch.targets.polygons[0, 0]
        assert edges.shape == (512, 5)
        assert (edges[:, 4] >= 0).tolist() == [True] * 300 + [False] * 212
        twice_area = (edges[:300, 0] * edges[:300, 3] - edges[:300, 2] * edges[:300, 1]).sum().item()
        assert twice_area / 2 == pytest.approx(np.pi * 100, rel=1e-3)

    def test_a_box_without_outline_teaches_its_box(self, tmp_path):
        bare = [annotation(1), annotation(2, segmentation=None)]
        dataset = write_data(tmp_path / "d", bare, sizes=[(40, 60)])
        [batch] = take(training_batches(dataset, Model(), Settings(batch_size=1)), 1)
        assert batch.targets.valid[0, :3].tolist() == [True, True, False]
        assert (batch.targets.polygons[0, :2, :, 4] >= 0).sum(1).tolist() == [4, 0]

    def test_boxes_alone_cannot_teach_masks(self, tmp_path):
        dataset = write_data(tmp_path / "d", [annotation(1, segmentation=None)])
        with pytest.raises(ValueError, match=r"instances_val\.json has boxes but no outlines.*without masks"):
            training_batches(dataset, Model(), Settings())
        assert take(training_batches(dataset, Model(), Settings(), masks=None), 1)

    def test_keypoints_sit_in_the_middle_of_their_pixel(self, tmp_path):
        points = [10, 12, 2, 20, 15, 1, 0, 0, 0]
        names = {"keypoints": ["left_eye", "right_eye", "nose"]}
        dataset = write_data(tmp_path / "d", [annotation(1, keypoints=points)], sizes=[(40, 60)], **names)
        straight, mirrored = (
            take(training_batches(dataset, Model(), Settings(batch_size=1, flip=flip), keypoints=True), 1)[0]
            for flip in (0.0, 1.0)
        )
        assert straight.targets.keypoints[0, 0].tolist() == [[10.5, 12.5, 2], [20.5, 15.5, 1], [0, 0, 0]]
        assert mirrored.targets.keypoints[0, 0].tolist() == [[39.5, 15.5, 1], [49.5, 12.5, 2], [0, 0, 0]]
        for one, (x, y) in ((straight, (10, 12)), (mirrored, (49, 12))):
            pixel = np.array(Image.open(dataset[0].path))[12, 10].tolist()
            assert one.images.pixels[0, :, y, x].tolist() == pixel

    def test_nameless_keypoints_are_not_mirrored(self, tmp_path):
        dataset = write_data(tmp_path / "d", [annotation(1, keypoints=[10, 12, 2])], sizes=[(40, 60)])
        with pytest.raises(ValueError, match=r"does not name its keypoints.*train\.flip=0"):
            training_batches(dataset, Model(), Settings(flip=0.5), keypoints=True)
        assert take(training_batches(dataset, Model(), Settings(flip=0.0), keypoints=True), 1)


class TestOrder:
    @pytest.mark.parametrize(("images", "size"), [(7, 2), (8, 2), (9, 4), (3, 3), (2, 5), (1, 4), (50, 8)])
    def test_places_come_once_and_images_once_a_pass(self, images, size):
        order = Order(np.arange(images) % 3 > 0, size, seed=1)
        batches = [order(n) for n in range(4 * images)]
        assert {len(batch) for batch in batches} == {size}
        uses = sorted((place, image) for batch in batches for image, place in batch)
        # the last pass may have only begun: the batches of each pass are shuffled
        whole = len(uses) // images - size
        assert [place for place, _ in uses][: whole * images] == list(range(whole * images))
        for number in range(whole):
            assert sorted(image for _, image in uses[number * images : (number + 1) * images]) == list(range(images))

    def test_batches_of_a_pass_hold_every_image(self):
        order = Order(np.arange(12) % 2 > 0, 4, seed=0)
        for number in range(5):
            seen = [image for n in range(3 * number, 3 * number + 3) for image, _ in order(n)]
            assert sorted(seen) == list(range(12))

    def test_wide_and_tall_do_not_mix(self):
        wide = np.random.default_rng(0).random(100) < 0.7
        order = Order(wide, 4, seed=0)
        for number in range(3):
            mixed = [len({bool(wide[image]) for image, _ in order(n)}) for n in range(25 * number, 25 * number + 25)]
            assert mixed.count(2) <= 1
            kinds = [bool(wide[order(n)[0][0]]) for n in range(25)]
            assert kinds != sorted(kinds)  # neither come first
            assert kinds != sorted(kinds, reverse=True)

    def test_any_batch_alone(self):
        ahead = Order(np.ones(10, bool), 3, seed=5)
        batches = [ahead(n) for n in range(20)]
        for n in reversed(range(20)):
            assert Order(np.ones(10, bool), 3, seed=5)(n) == batches[n]
        assert Order(np.ones(10, bool), 3, seed=6)(0) != batches[0]
        assert sorted(batches[:3]) != sorted(batches[10:13])


class TestStream:
    settings = Settings(flip=0.5, jitter=0.3, scales=(32, 40))

    def test_the_same_from_any_number_of_workers(self, dataset):
        alone = take(training_batches(dataset, Model(), self.settings), 9)
        by_two = training_batches(dataset, Model(), Settings(**(vars(self.settings) | {"workers": 2})))
        assert_same(alone, take(by_two, 9))

    def test_resumed_at_a_step(self, dataset):
        whole = take(training_batches(dataset, Model(), self.settings), 9)
        assert_same(whole[5:], take(training_batches(dataset, Model(), self.settings, 5), 4))
        by_one = Settings(**(vars(self.settings) | {"workers": 1}))
        assert_same(whole[7:], take(training_batches(dataset, Model(), by_one, 7), 2))

    def test_global_random_numbers_are_left_alone(self, dataset):
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        take(training_batches(dataset, Model(), Settings(workers=1, flip=0.5, jitter=0.1)), 2)
        assert torch.equal(torch.rand(2), expected)

    def test_workers_ignore_ctrl_c(self, dataset):
        """Ctrl-C reaches every process of a terminal; the main one then still wants the batches of its step."""
        stream = training_batches(dataset, Model(), Settings(workers=2))
        alone = take(training_batches(dataset, Model(), Settings()), 9)
        found = take(stream, 1)
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGINT)
        assert_same(alone, found + take(stream, 8))

    @pytest.mark.parametrize(
        "error",
        [RuntimeError("DataLoader worker (pid 3) is killed by signal: Killed."), EOFError(), ConnectionResetError()],
    )
    def test_a_killed_worker_is_told_with_a_cure(self, dataset, monkeypatch, error):
        """What a worker's end looks like depends on the moment, so that the ways it shows are played here."""

        def dying(*args, **settings):
            raise error
            yield

        monkeypatch.setattr("rcnn.data.loader.DataLoader", dying)
        with pytest.raises(OSError, match=r"a process that prepares images has ended.*train\.workers=0"):
            next(training_batches(dataset, Model(), Settings(workers=1)))

    def test_an_error_of_ours_is_not_taken_for_a_killed_worker(self, dataset, monkeypatch):
        monkeypatch.setattr(Batches, "__getitem__", lambda self, index: [][index])
        with pytest.raises(IndexError, match="list index out of range"):
            next(training_batches(dataset, Model(), Settings(workers=1)))

    def test_batches_travel_to_a_fresh_process(self, dataset):
        order = Order(np.ones(len(dataset), bool), 2, seed=0)
        batches = Batches(dataset, Model(), Settings(), order, masks="polygon", keypoints=False, pairs=(), rank=0)
        sent = pickle.dumps(batches)
        assert_same([batches[3]], [pickle.loads(sent)[3]])  # noqa: S301

    def test_processes_share_a_stream(self, dataset):
        together = take(training_batches(dataset, Model(), Settings(batch_size=4)), 6)
        parts = [take(training_batches(dataset, Model(), Settings(), rank=rank, world=2), 6) for rank in (0, 1)]
        for n, batch in enumerate(together):
            assert batch.image_ids == parts[0][n].image_ids + parts[1][n].image_ids
        with pytest.raises(ValueError, match="rank is 2, wanted 0 to 1"):
            training_batches(dataset, Model(), Settings(), rank=2, world=2)

    def test_images_without_objects_take_part(self, dataset):
        ids = [
            image_id
            for batch in take(training_batches(dataset, Model(), Settings(batch_size=1)), 7)
            for image_id in batch.image_ids
        ]
        assert sorted(ids) == [1, 2, 3, 4, 5, 6, 7]

    def test_no_images(self, tmp_path):
        empty = write_data(tmp_path / "d", [annotation(1)], sizes=[(40, 60)])
        empty = replace(empty, image_ids=(), file_names=(), sizes=np.zeros((0, 2), int))
        with pytest.raises(ValueError, match=r"instances_val\.json has no images"):
            training_batches(empty, Model(), Settings())


@pytest.mark.parametrize("workers", [0, 1])
class TestBadImages:
    def expect(self, dataset: Dataset, workers: int, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            take(training_batches(dataset, Model(), Settings(batch_size=1, workers=workers)), len(SIZES))
        assert type(caught.value).__name__ == error.__name__
        assert "Traceback" not in str(caught.value)

    def test_missing(self, dataset, workers):
        dataset[2].path.unlink()
        self.expect(dataset, workers, FileNotFoundError, r"3\.png does not exist: correct the path")

    def test_truncated(self, dataset, workers):
        path = dataset[2].path
        path.write_bytes(path.read_bytes()[:2000])
        self.expect(dataset, workers, ImageError, r"3\.png is cut off or damaged")

    def test_other_size(self, dataset, workers):
        Image.new("RGB", (50, 41)).save(dataset[2].path)
        said = r"3\.png is 50x41 pixels .*\(image 3\) says 56x40: put the annotated image there"
        self.expect(dataset, workers, ValueError, said)

    def test_annotated_before_its_rotation(self, dataset, workers):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (56, 40)).save(dataset[2].path, exif=exif)
        self.expect(dataset, workers, ValueError, r"3\.png is 40x56 .* says 56x40: .*EXIF rotation.*exiftool")
