"""Batches: padding, order and the stream, against slow loops and what the annotation files say."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rcnn.data import Dataset, images
from rcnn.data.images import ImageError
from rcnn.data.loading import Batches, BatchSampler, TrainingBatch, pad_images, padded_shape, training_batches
from rcnn.data.targets import Masks, TargetOptions
from rcnn.data.transforms import Affine, CopyPaste, OwnStep, RandomCrop, Sample, ScaleJitter
from rcnn.training.settings import TrainConfig
from tests.narrow import present
from tests.unit.data.coco_folders import annotation
from tests.unit.training.noise_folders import SIZES, Model, Settings, seven_images, take, write_data


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return seven_images(tmp_path)


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
    def test_exact(self, divisor: int, shape: tuple[int, int]) -> None:
        images = [torch.full((3, 40, 60), 7, dtype=torch.uint8), torch.full((3, 33, 65), 9, dtype=torch.uint8)]
        batch = pad_images(images, divisor=divisor, padding="exact")
        assert batch.pixels.shape == (2, 3, *shape)
        assert batch.pixels.dtype == torch.uint8
        assert batch.sizes.tolist() == [[40, 60], [33, 65]]
        for slot, image in zip(batch.pixels, images, strict=True):
            _, height, width = image.shape
            assert torch.equal(slot[:, :height, :width], image)
            assert slot.sum() == image.sum()

    def test_floats_stay_floats(self) -> None:
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
    def test_bucket(self, size: tuple[int, int], shape: tuple[int, int]) -> None:
        assert padded_shape([size], 32, "bucket") == shape

    def test_buckets_are_few_and_hold_their_images(self) -> None:
        sizes = [(800, width) for width in range(800, 1334)] + [(height, 800) for height in range(800, 1334)]
        shapes: Counter[tuple[int, int]] = Counter()
        for height, width in sizes:
            shape = padded_shape([(height, width)], 32, "bucket")
            assert shape[0] >= height
            assert shape[1] >= width
            assert shape[0] * shape[1] < 1.27 * height * width
            shapes[shape] += 1
        assert len(shapes) == 6

    @pytest.mark.parametrize("divisor", [32, 48, 128])
    def test_buckets_are_multiples_of_the_divisor(self, divisor: int) -> None:
        shape = padded_shape([(500, 700)], divisor, "bucket")
        assert [side % divisor for side in shape] == [0, 0]

    def test_no_images(self) -> None:
        with pytest.raises(ValueError, match="at least one image"):
            pad_images([], divisor=32, padding="exact")


class TestBatchSampler:
    @pytest.mark.parametrize(("images", "size"), [(7, 2), (8, 2), (9, 4), (3, 3), (2, 5), (1, 4), (50, 8)])
    def test_each_image_comes_once_per_epoch(self, images: int, size: int) -> None:
        order = BatchSampler(np.arange(images) % 3 > 0, size, seed=1)
        batches = [order(n) for n in range(4 * images)]
        assert {len(batch) for batch in batches} == {size}
        uses = sorted((place, image) for batch in batches for image, place in batch)
        # the last pass may have only begun: the batches of each pass are shuffled
        whole = len(uses) // images - size
        assert [place for place, _ in uses][: whole * images] == list(range(whole * images))
        for number in range(whole):
            assert sorted(image for _, image in uses[number * images : (number + 1) * images]) == list(range(images))

    def test_the_batches_of_an_epoch_contain_every_image(self) -> None:
        order = BatchSampler(np.arange(12) % 2 > 0, 4, seed=0)
        for number in range(5):
            seen = [image for n in range(3 * number, 3 * number + 3) for image, _ in order(n)]
            assert sorted(seen) == list(range(12))

    def test_wide_and_tall_do_not_mix(self) -> None:
        wide = np.random.default_rng(0).random(100) < 0.7
        order = BatchSampler(wide, 4, seed=0)
        for number in range(3):
            mixed = [len({bool(wide[image]) for image, _ in order(n)}) for n in range(25 * number, 25 * number + 25)]
            assert mixed.count(2) <= 1
            kinds = [bool(wide[order(n)[0][0]]) for n in range(25)]
            assert kinds != sorted(kinds)  # neither come first
            assert kinds != sorted(kinds, reverse=True)

    def test_any_batch_alone(self) -> None:
        ahead = BatchSampler(np.ones(10, bool), 3, seed=5)
        batches = [ahead(n) for n in range(20)]
        for n in reversed(range(20)):
            assert BatchSampler(np.ones(10, bool), 3, seed=5)(n) == batches[n]
        assert BatchSampler(np.ones(10, bool), 3, seed=6)(0) != batches[0]
        assert sorted(batches[:3]) != sorted(batches[10:13])


class TestStream:
    settings = Settings(flip=0.5, jitter=0.3, drawn_scales=(32, 40))

    def test_the_same_from_any_number_of_workers(self, dataset: Dataset) -> None:
        alone = take(training_batches(dataset, Model(), self.settings), 9)
        by_two = training_batches(dataset, Model(), replace(self.settings, workers=2))
        assert_same(alone, take(by_two, 9))

    def test_resumed_at_a_step(self, dataset: Dataset) -> None:
        whole = take(training_batches(dataset, Model(), self.settings), 9)
        assert_same(whole[5:], take(training_batches(dataset, Model(), self.settings, 5), 4))
        by_one = replace(self.settings, workers=1)
        assert_same(whole[7:], take(training_batches(dataset, Model(), by_one, 7), 2))

    def test_global_random_numbers_are_left_alone(self, dataset: Dataset) -> None:
        torch.manual_seed(3)
        expected = torch.rand(2)
        torch.manual_seed(3)
        take(training_batches(dataset, Model(), Settings(workers=1, flip=0.5, jitter=0.1)), 2)
        assert torch.equal(torch.rand(2), expected)

    def test_batches_can_be_pickled(self, dataset: Dataset) -> None:
        order = BatchSampler(np.ones(len(dataset), bool), 2, seed=0)
        batches = Batches(
            dataset=dataset, input_config=Model(), settings=Settings(), sampler=order, targets=TargetOptions()
        )
        sent = pickle.dumps(batches)
        assert_same([batches.make(3)], [pickle.loads(sent).make(3)])  # noqa: S301

    def test_processes_share_a_stream(self, dataset: Dataset) -> None:
        together = take(training_batches(dataset, Model(), Settings(batch_size=4)), 6)
        parts = [take(training_batches(dataset, Model(), Settings(), rank=rank, world=2), 6) for rank in (0, 1)]
        for n, batch in enumerate(together):
            assert batch.image_ids == parts[0][n].image_ids + parts[1][n].image_ids
        with pytest.raises(ValueError, match="rank is 2; expected 0 to 1"):
            training_batches(dataset, Model(), Settings(), rank=2, world=2)

    def test_images_without_objects_are_used(self, dataset: Dataset) -> None:
        ids = [
            image_id
            for batch in take(training_batches(dataset, Model(), Settings(batch_size=1)), 7)
            for image_id in batch.image_ids
        ]
        assert sorted(ids) == [1, 2, 3, 4, 5, 6, 7]

    def test_no_images(self, tmp_path: Path) -> None:
        empty = write_data(tmp_path / "d", [annotation(1)], sizes=[(40, 60)])
        empty = replace(empty, image_ids=(), file_names=(), sizes=np.zeros((0, 2), int))
        with pytest.raises(ValueError, match=r"instances_val\.json has no images"):
            training_batches(empty, Model(), Settings())


class TestLargeImages:
    """Large JPEG files are resized while they are decoded: the targets are those of a PNG with the same pixels."""

    @pytest.fixture
    def twins(self, tmp_path: Path) -> tuple[Dataset, Dataset]:
        """The same large photo as JPEG and as PNG."""
        y, x = np.mgrid[:403, :607]
        pixels = np.stack([127 + 120 * np.sin(x / 30), 127 + 120 * np.cos(y / 25), x / 3], axis=2).astype(np.uint8)
        found: list[Dataset] = []
        for suffix in ("jpg", "png"):
            data = write_data(tmp_path / suffix, [annotation(1, image_id=1)], [(403, 607)])
            Image.fromarray(pixels).save(data.folder / f"1.{suffix}", quality=98, subsampling=0)
            found.append(replace(data, file_names=(f"1.{suffix}",)))
        return found[0], found[1]

    @pytest.mark.parametrize("masks", ["polygon", "bitmap"])
    def test_targets_are_the_same(self, twins: tuple[Dataset, Dataset], masks: Masks) -> None:
        settings = Settings(batch_size=2, flip=0.5, drawn_scales=(40, 52), jitter=0.2, augment=(CopyPaste(),))
        options = TargetOptions(masks=masks)
        batches = [take(training_batches(data, Model(), settings, targets=options), 3) for data in twins]
        for jpeg, png in zip(*batches, strict=True):
            assert torch.equal(jpeg.images.sizes, png.images.sizes)
            assert torch.equal(present(jpeg.images.originals), present(png.images.originals))
            assert torch.equal(jpeg.targets.boxes, png.targets.boxes)
            for name in ("polygons", "bitmaps"):
                one, other = getattr(jpeg.targets, name), getattr(png.targets, name)
                assert (one is None) is (other is None) is (name[:-1] != masks)
                assert one is None or torch.equal(one, other)
            difference = (jpeg.images.pixels.float() - png.images.pixels).abs()
            assert 0 < difference.mean() < 1

    @pytest.mark.parametrize(
        ("settings", "model"),
        [
            (Settings(augment=(RandomCrop(),)), Model()),
            (Settings(augment=(ScaleJitter(size=64),)), Model()),
            (Settings(), Model(resize="bilinear")),
            (Settings(), Model(canvas=80)),
        ],
    )
    def test_what_needs_the_whole_file_gets_it(
        self, twins: tuple[Dataset, Dataset], settings: Settings, model: Model, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(images, "REDUCING_GAP", 100)
        whole = take(training_batches(twins[0], model, settings), 2)
        monkeypatch.undo()
        assert_same(whole, take(training_batches(twins[0], model, settings), 2))

    def test_another_size_than_the_annotation_says(self, twins: tuple[Dataset, Dataset]) -> None:
        jpeg = twins[0]
        Image.new("RGB", (611, 403)).save(jpeg.folder / "1.jpg")
        with pytest.raises(ValueError, match=r"1\.jpg is 611x403 pixels .* says 607x403"):
            take(training_batches(jpeg, Model(), Settings()), 1)


@pytest.mark.parametrize("workers", [0, 1])
class TestBadImages:
    def expect(self, dataset: Dataset, workers: int, error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message) as caught:
            take(training_batches(dataset, Model(), Settings(batch_size=1, workers=workers)), len(SIZES))
        assert type(caught.value).__name__ == error.__name__
        assert "Traceback" not in str(caught.value)

    def test_missing(self, dataset: Dataset, workers: int) -> None:
        dataset[2].path.unlink()
        self.expect(dataset, workers, FileNotFoundError, r"3\.png does not exist: check the path")

    def test_truncated(self, dataset: Dataset, workers: int) -> None:
        path = dataset[2].path
        path.write_bytes(path.read_bytes()[:2000])
        self.expect(dataset, workers, ImageError, r"3\.png is truncated or damaged")

    def test_other_size(self, dataset: Dataset, workers: int) -> None:
        Image.new("RGB", (50, 41)).save(dataset[2].path)
        message = r"3\.png is 50x41 pixels .*\(image 3\) says 56x40: replace it with the image that was annotated"
        self.expect(dataset, workers, ValueError, message)

    def test_annotated_before_its_rotation(self, dataset: Dataset, workers: int) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (56, 40)).save(dataset[2].path, exif=exif)
        self.expect(dataset, workers, ValueError, r"3\.png is 40x56 .* says 56x40: .*EXIF rotation.*exiftool")


class TestUnreadableImages:
    """With skip_unreadable, others take the places of images that cannot be read; all else stays as it was."""

    settings = Settings(batch_size=1, flip=0.5, drawn_scales=(32, 40))

    def damage(self, dataset: Dataset, *ids: int) -> Dataset:
        """The files of the images `ids` are cut off behind their headers."""
        for one in ids:
            path = dataset[one - 1].path
            path.write_bytes(path.read_bytes()[:2000])
        return dataset

    def stream(
        self, dataset: Dataset, count: int, settings: Settings = settings, first: int = 0, rank: int = 0, world: int = 1
    ) -> list[TrainingBatch]:
        batches = training_batches(dataset, Model(), settings, first, rank=rank, world=world, skip_unreadable=True)
        return take(batches, count)

    def test_only_their_places_change(self, dataset: Dataset) -> None:
        before = self.stream(dataset, 21)
        after = self.stream(self.damage(dataset, 3, 5), 21)
        places = [n for n, batch in enumerate(before) if batch.image_ids[0] in (3, 5)]
        assert len(places) == 6  # three epochs
        for n, (one, other) in enumerate(zip(before, after, strict=True)):
            assert one.unreadable == ()
            if n in places:
                assert other.image_ids[0] not in (3, 5)
                assert f"{one.image_ids[0]}.png is truncated or damaged" in other.unreadable[0]
            else:
                assert_same([one], [other])

    def test_they_do_not_depend_on_workers_start_and_processes(self, dataset: Dataset) -> None:
        self.damage(dataset, 2, 3)
        alone = self.stream(dataset, 8)
        assert_same(alone, self.stream(dataset, 8, replace(self.settings, workers=2)))
        assert_same(alone[5:], self.stream(dataset, 3, first=5))
        for accumulate in (1, 2):
            whole = self.stream(dataset, 8, replace(self.settings, batch_size=4, accumulate=accumulate))
            half = replace(self.settings, batch_size=2, accumulate=accumulate)
            halves = [self.stream(dataset, 8, half, rank=rank, world=2) for rank in range(2)]
            assert any(batch.unreadable for batch in whole)
            for batch, *parts in zip(whole, *halves, strict=True):
                assert batch.image_ids == parts[0].image_ids + parts[1].image_ids
                assert torch.equal(batch.images.pixels, torch.cat([part.images.pixels for part in parts]))

    def test_an_image_of_another_size_is_replaced_too(self, dataset: Dataset) -> None:
        Image.new("RGB", (50, 41)).save(dataset[2].path)
        batches = self.stream(dataset, 7)
        assert 3 not in [batch.image_ids[0] for batch in batches]
        assert [text for batch in batches for text in batch.unreadable if "is 50x41 pixels" in text]

    def test_copy_paste_does_without_it(self, dataset: Dataset) -> None:
        self.damage(dataset, 2, 3, 4, 5, 6)  # of the images with objects, only the first is left
        settings = replace(self.settings, augment=(CopyPaste(probability=1),))
        assert {batch.image_ids[0] for batch in self.stream(dataset, 7, settings)} == {1, 7}

    def test_no_image_that_can_be_read(self, dataset: Dataset) -> None:
        self.damage(dataset, *range(1, 8))
        with pytest.raises(ValueError, match=r"\d\.png is truncated .*6 other images that could take its place cannot"):
            self.stream(dataset, 1)
        with pytest.raises(ValueError, match=r"1\.png is truncated .*\. The data set has no other image that"):
            self.stream(dataset.subset([0]), 1)


def noisy(sample: Sample, random: np.random.Generator) -> Sample:
    noise = torch.randint(0, 9, sample.image.shape) + int(random.integers(3))
    return replace(sample, image=(sample.image + noise).clamp(0, 255).byte())


class TestAugmentedBatches:
    steps = (RandomCrop(), Affine(), CopyPaste(probability=1), OwnStep(factory=f"{__file__}:noisy"))

    def test_they_are_the_same_with_any_number_of_workers_and_processes(self, dataset: Dataset) -> None:
        settings = Settings(batch_size=4, augment=self.steps, flip=0.5, drawn_scales=(20, 40))
        alone = take(training_batches(dataset, Model(), settings), 4)
        assert_same(alone, take(training_batches(dataset, Model(), replace(settings, workers=2)), 4))
        halves = [
            take(training_batches(dataset, Model(), replace(settings, batch_size=2), rank=rank, world=2), 4)
            for rank in range(2)
        ]
        for whole, *parts in zip(alone, *halves, strict=True):
            assert torch.equal(whole.images.pixels, torch.cat([part.images.pixels for part in parts]))
            boxes = [box for part in parts for box in part.targets.boxes[part.targets.valid].tolist()]
            assert boxes == whole.targets.boxes[whole.targets.valid].tolist()

    def test_objects_come_from_another_image(self, dataset: Dataset) -> None:
        settings = Settings(batch_size=7, augment=(CopyPaste(probability=1, fraction=1),))
        [plain] = take(training_batches(dataset, Model(), Settings(batch_size=7)), 1)
        [pasted] = take(training_batches(dataset, Model(), settings), 1)
        assert pasted.image_ids == plain.image_ids
        assert (pasted.targets.valid.sum(1) > 0).all()  # also in the image without objects
        assert not torch.equal(pasted.images.pixels, plain.images.pixels)
        [boxes] = take(training_batches(dataset, Model(), settings, targets=TargetOptions(masks=None)), 1)
        assert boxes.targets.polygons is None
        assert torch.equal(boxes.targets.boxes, pasted.targets.boxes)
        [bitmaps] = take(training_batches(dataset, Model(), settings, targets=TargetOptions(masks="bitmap")), 1)
        torch.testing.assert_close(bitmaps.targets.boxes, pasted.targets.boxes, atol=1.0, rtol=0)
        alone = dataset.subset([0])
        assert take(training_batches(alone, Model(), replace(settings, batch_size=1)), 1)

    def test_every_size_of_a_range_is_drawn(self, dataset: Dataset) -> None:
        settings = TrainConfig(batch_size=1, scale_range=(40, 43), workers=0)
        batches = take(training_batches(dataset, Model(max_size=200), settings), 40)
        assert {min(batch.images.sizes[0].tolist()) for batch in batches} == {40, 41, 42, 43}

    def test_scale_jitter_gives_one_shape(self, dataset: Dataset) -> None:
        settings = Settings(batch_size=3, augment=(ScaleJitter(size=64),))
        for batch in take(training_batches(dataset, Model(), settings), 5):
            assert batch.images.pixels.shape == (3, 3, 64, 64)
            assert batch.images.sizes.tolist() == [[64, 64]] * 3

    def test_copy_paste_needs_masks(self, tmp_path: Path) -> None:
        boxes = write_data(tmp_path / "boxes", [annotation(1, segmentation=[])])
        with pytest.raises(ValueError, match=r"copy_paste needs outlines of objects, but .*has boxes"):
            training_batches(boxes, Model(), Settings(augment=self.steps), targets=TargetOptions(masks=None))
