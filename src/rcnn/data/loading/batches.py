"""The endless stream of training batches.

Batch n depends only on the data, the settings (including the seed) and n, not on the number of worker processes or on
earlier batches. A run can therefore resume at any step.

The images of an optimizer step, their order and their padded shape are chosen as if one process took all of them in
one batch. They are then divided: first into the batches that are accumulated, then each of these among the training
processes. A run therefore continues on the same stream with another number of processes or accumulated batches, if the
number of images per step is the same.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Protocol, TypeAlias

import numpy as np

from rcnn.data.balance import repeat_factors
from rcnn.data.decoded import Decoded
from rcnn.data.loading.padding import Padding, pad_images, padded_shape
from rcnn.data.loading.sampler import AUGMENT, REPLACE, BatchSampler, Indices
from rcnn.data.loading.training_batch import TrainingBatch
from rcnn.data.loading.workers import batches_of_workers
from rcnn.data.messages import counted
from rcnn.data.records import Dataset, ImageRecord
from rcnn.data.skeletons import skeleton_of
from rcnn.data.targets import Masks, TargetOptions, collate_targets, make_sample, require_memory, require_size
from rcnn.data.transforms import (
    Augmentation,
    CopyPaste,
    Sample,
    Step,
    augment,
    augmented_size,
    resized_and_flipped,
    size_when_decoded,
)
from rcnn.data.transforms.steps import scale_jitter_of
from rcnn.preprocess import Frame, InputConfig

Places: TypeAlias = Sequence[tuple[int, int]]  # indices in the data set and positions in the sequence of images
CANDIDATES = 20  # other images that are tried in the place of one that cannot be read


class UnreadableImageError(Exception):
    """An image that must be replaced, because it cannot be read or its size differs from its annotation."""


class LoaderSettings(Augmentation, Protocol):
    """The training settings that the loader reads."""

    @property
    def batch_size(self) -> int:
        """Images per batch, on each process."""
        ...

    @property
    def accumulate(self) -> int:
        """Batches per optimizer step."""
        ...

    @property
    def padding(self) -> Padding:
        """How the shape of a batch is chosen."""
        ...

    @property
    def workers(self) -> int:
        """Number of worker processes; 0: batches are made in the calling process."""
        ...

    @property
    def seed(self) -> int:
        """Seed of the order of the images and of their augmentation."""
        ...

    @property
    def repeat_threshold(self) -> float:
        """Images with classes in a smaller fraction of the images than this are repeated; 0: none are."""
        ...


def training_batches(
    dataset: Dataset,
    input_config: InputConfig,
    settings: LoaderSettings,
    first: int = 0,
    *,
    targets: TargetOptions = TargetOptions(),  # noqa: B008 - it is immutable
    rank: int = 0,
    world: int = 1,
    skip_unreadable: bool = False,
) -> Generator[TrainingBatch, None, None]:
    """The endless stream of training batches for process `rank` of `world`, from batch `first` on.

    Each epoch contains every image in random order: once, or more often if `settings.repeat_threshold` repeats it. All
    images of a batch are landscape or all are portrait, except for one batch per epoch. `targets` says what the model
    is trained on besides boxes.

    Raises ValueError at once for data that cannot be trained on. The stream raises ValueError or OSError for an image
    that cannot be read or has another size than its annotation, and WorkerError if a worker process ends. With
    `skip_unreadable`, another image, chosen by the seed and the position, takes its place, and
    `TrainingBatch.unreadable` says what is wrong; ValueError if 20 others cannot be read either.
    """
    batches = numbered_batches(
        dataset, input_config, settings, targets=targets, rank=rank, world=world, skip_unreadable=skip_unreadable
    )
    if settings.workers == 0:
        return (batches.make(n) for n in itertools.count(first))
    if settings.augment:
        # imported before the workers are forked, because it takes seconds
        import torchvision.transforms.v2  # noqa: F401
    return batches_of_workers(batches, first, settings.workers)


def numbered_batches(
    dataset: Dataset,
    input_config: InputConfig,
    settings: LoaderSettings,
    *,
    targets: TargetOptions = TargetOptions(),  # noqa: B008 - it is immutable
    rank: int = 0,
    world: int = 1,
    skip_unreadable: bool = False,
) -> Batches:
    """The same batches by number, made in the calling process. Raises ValueError for data that cannot be trained on."""
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank}; expected 0 to {world - 1} for {world} processes")
    _require_trainable(dataset, targets.masks, _padded_pixels(input_config, settings))
    require_masks_to_copy(dataset, settings.augment)
    if targets.keypoints:
        skeleton_of(dataset)
        if targets.pairs is None:
            targets = replace(targets, pairs=_flip_pairs(dataset, settings.flip))
    sampler = _sampler(dataset, settings, world)
    return Batches(
        dataset=dataset,
        input_config=input_config,
        settings=settings,
        sampler=sampler,
        targets=targets,
        rank=rank,
        world=world,
        skip_unreadable=skip_unreadable,
    )


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Training batches by number. Cheap to send to another process: a data set is a few arrays."""

    dataset: Dataset
    input_config: InputConfig
    settings: LoaderSettings
    sampler: BatchSampler
    targets: TargetOptions
    rank: int = 0  # number of this process among the `world` that share each batch
    world: int = 1
    skip_unreadable: bool = False  # others take the places of images that cannot be read

    def make(self, n: int, after_image: Callable[[], None] | None = None) -> TrainingBatch:
        """This process's part of batch `n`; `after_image` is called after each image."""
        size = self.settings.batch_size
        step = self.sampler(n // self.settings.accumulate)  # all images of the optimizer step
        first = (n % self.settings.accumulate * self.world + self.rank) * size
        batch = self._of(step[first : first + size], step if len(step) > size else (), after_image)
        return replace(batch, first=first)

    def largest(self, images: int) -> TrainingBatch:
        """The batch that needs most memory: `images` times the image with most objects, padded to the largest shape.

        With several `settings.drawn_scales`, the shape is that of one of them.
        """
        crowded = int(np.bincount(self.dataset.objects.image_index, minlength=len(self.dataset)).argmax())
        _, of_each_size = np.unique(self.dataset.sizes, axis=0, return_index=True)
        every_size = [(index, 0) for index in of_each_size.tolist()]
        return self._of([(crowded, position) for position in range(images)], every_size)

    def _of(self, places: Places, padded_as: Places, after_image: Callable[[], None] | None = None) -> TrainingBatch:
        """A batch of the images at `places`, padded to a shape into which the images at `padded_as` also fit."""
        samples, ids, frames, unreadable = list[Sample](), list[int | str](), list[Frame](), list[str]()
        replaced: list[tuple[int, int]] = []
        for index, position in places:
            used, sample, frame = self._readable(index, position, unreadable)
            replaced += [] if used == index else [(index, position)]
            samples.append(sample)
            ids.append(self.dataset.image_ids[used])
            frames.append(frame)
            if after_image is not None:
                after_image()
        sizes = [frame.size for frame in frames] + [self._input_size(*place) for place in (*padded_as, *replaced)]
        divisor, padding = self.input_config.divisor, self.settings.padding
        shape = padded_shape(sizes, divisor, padding)
        images = pad_images([sample.image for sample in samples], divisor, padding, frames, shape)
        targets = collate_targets(samples, shape, len(self.dataset.classes))
        return TrainingBatch(images=images, targets=targets, image_ids=tuple(ids), unreadable=tuple(unreadable))

    def _readable(self, index: int, position: int, unreadable: list[str]) -> tuple[int, Sample, Frame]:
        """Image `index`, or the one that takes its place, as the network gets it at `position`, and its index.

        What is wrong with images that cannot be read is added to `unreadable`.
        """
        try:
            return index, *self.augmented(index, position)
        except UnreadableImageError as error:
            first = str(error)
        unreadable.append(first)
        candidates = self._replacements(index, position)
        for other in candidates:
            try:
                return other, *self.augmented(other, position)
            except UnreadableImageError as error:
                unreadable.append(str(error))
        if not candidates:
            raise ValueError(f"{first}. The data set has no other image that could take its place")
        others = counted(len(candidates), "other image")
        raise ValueError(f"{first}. {others} that could take its place cannot be read either")

    def _replacements(self, index: int, position: int) -> list[int]:
        """Images to try at `position` in the place of image `index`, in this order.

        First those that are not larger as inputs of the network, so that the shape of the batch stays the same, also in
        the processes that do not read the image.
        """
        drawn = np.random.default_rng((self.settings.seed, REPLACE, position)).permutation(len(self.dataset))
        others = drawn[drawn != index][:CANDIDATES].tolist()
        height, width = self._input_size(index, position)
        sizes = {other: self._input_size(other, position) for other in others}
        return sorted(others, key=lambda other: sizes[other][0] > height or sizes[other][1] > width)

    def augmented(self, index: int, position: int) -> tuple[Sample, Frame]:
        """Image `index` of the data set as the network gets it at `position` of the stream, and its frame."""
        seed, pairs = (self.settings.seed, AUGMENT, position), self.targets.pairs or ()
        sample, other = self._sample(index, seed), partial(self._other, index)
        sample, frame = augment(sample, self.settings, self.input_config, seed, pairs, other)
        return (replace(sample, outlines=None) if self.targets.masks is None else sample), frame

    def _sample(self, index: int, seed: Sequence[int]) -> Sample:
        """A sample before augmentation, with outlines if augmentation needs them to compute boxes.

        A large image may already be resized, as the augmentation with `seed` resizes it first.
        """
        find_boxes = self.targets.masks is None and self.settings.augment and self.dataset.has_outlines
        options = replace(self.targets, masks="polygon") if find_boxes else self.targets
        record = self.dataset[index]
        try:
            decoded = self._decoded(record, seed)
        except (ValueError, OSError) as error:
            if not self.skip_unreadable:
                raise
            text = str(error) or type(error).__name__
            raise UnreadableImageError(text if str(record.path) in text else f"{record.path}: {text}") from error
        return make_sample(record, decoded.image, options, decoded.file_size)

    def _decoded(self, record: ImageRecord, seed: Sequence[int]) -> Decoded:
        """The pixels of an image, perhaps resized. Raises ValueError if the file has another size than the record."""
        size = size_when_decoded((record.height, record.width), self.settings, self.input_config, seed)
        decoded = Decoded(record.read()) if size is None else record.read_resized(size)
        require_size(record, decoded.original_size)
        return decoded

    def _other(self, index: int, seed: Sequence[int]) -> Sample | None:
        """A random image with objects, not image `index`, resized and flipped; None if none can be read."""
        candidates = self._with_objects[self._with_objects != index]
        if not len(candidates):
            return None
        chosen = int(np.random.default_rng(seed).choice(candidates))
        try:
            sample = self._sample(chosen, seed)
        except UnreadableImageError:  # reported when the image itself is due
            return None
        return resized_and_flipped(sample, self.settings, self.input_config, seed, self.targets.pairs or ())

    @cached_property
    def _with_objects(self) -> Indices:
        """Indices of the images with objects that are trained on."""
        objects = self.dataset.objects
        return np.unique(objects.image_index[~objects.ignored])

    def _input_size(self, index: int, position: int) -> tuple[int, int]:
        """(height, width) of an image after augmentation, without reading the image."""
        height, width = self.dataset.sizes[index].tolist()
        seed = (self.settings.seed, AUGMENT, position)
        return augmented_size((height, width), self.settings, self.input_config, seed)


def _sampler(dataset: Dataset, settings: LoaderSettings, world: int) -> BatchSampler:
    """The order of the images for all `world` processes; one of its batches is an optimizer step."""
    factors = repeat_factors(dataset, settings.repeat_threshold) if settings.repeat_threshold else None
    landscape = dataset.sizes[:, 1] >= dataset.sizes[:, 0]
    return BatchSampler(landscape, settings.batch_size * settings.accumulate * world, settings.seed, factors)


def _require_trainable(dataset: Dataset, masks: Masks | None, pixels: int) -> None:
    """Raise ValueError unless a model with `masks` can be trained on the data set; `pixels` as in `require_memory`."""
    if not len(dataset):
        raise ValueError(f"{dataset.annotation_file} has no images; expected at least one to train on")
    if masks is None:
        return
    if dataset.num_training_objects and not dataset.has_outlines:
        raise ValueError(
            f"{dataset.annotation_file} has boxes but no segmentations, and this model is trained on masks: "
            "annotate polygons, or train a model without masks (see `rcnn models`)"
        )
    require_memory(dataset, masks, pixels)


def require_masks_to_copy(dataset: Dataset, steps: Sequence[Step]) -> None:
    """Raise ValueError if `steps` has copy-paste and the objects have no outlines."""
    if any(isinstance(step, CopyPaste) for step in steps) and not dataset.has_outlines:
        raise ValueError(
            f"train.augment: copy_paste needs outlines of objects, but {dataset.annotation_file} has boxes only: leave "
            "copy_paste out, or annotate outlines"
        )


def _padded_pixels(input_config: InputConfig, settings: LoaderSettings) -> int:
    """Number of pixels of the largest network input, padded, in a batch of one image."""
    jittered = scale_jitter_of(settings.augment)
    if jittered is not None:
        return math.prod(padded_shape([(jittered.size, jittered.size)], input_config.divisor, settings.padding))
    short = max(settings.drawn_scales or (input_config.min_size,))
    long = input_config.canvas or input_config.max_size
    size = (input_config.canvas or min(short, long), long)
    return math.prod(padded_shape([size], input_config.divisor, settings.padding))


def _flip_pairs(dataset: Dataset, flip: float) -> tuple[tuple[int, int], ...]:
    """The keypoints that a horizontal flip exchanges, by the names in the annotation file."""
    skeleton = skeleton_of(dataset)
    if flip and not skeleton.named:
        raise ValueError(
            f"{dataset.annotation_file} does not name its keypoints, so a horizontal flip cannot exchange left and "
            'right: add "keypoints": ["nose", "left_eye", ...] to the category, give the pairs '
            "(keypoint.flip_pairs=[[1,2],[3,4]], counted from 0), or train with train.flip=0"
        )
    return skeleton.pairs
