"""Batches for the network: images padded to one shape, and the endless stream that training reads.

Batch n of a stream depends on the data, the settings (their seed among them) and n, on nothing else: not on how many
processes make it, nor on the batches before it. So a run resumes at any step, and data parallel processes, each told
its rank, share one stream.

Letters: B images of a batch, I images of the data set.
"""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from rcnn.data.balance import repeat_factors, spread
from rcnn.data.images import read_image
from rcnn.data.records import Dataset
from rcnn.data.skeletons import skeleton_of
from rcnn.data.targets import Masks, collate_targets, make_sample
from rcnn.data.transforms import Augmentation, augment
from rcnn.preprocess import InputConfig
from rcnn.structures import ImageBatch, Targets

Padding = Literal["exact", "bucket"]
BUCKET = 64  # sides of buckets are multiples of this, pixels
ORDER, SHUFFLE, AUGMENT = range(3)  # what a random number is for, so that no two uses share one


class LoaderSettings(Augmentation, Protocol):
    """What is read of a run's settings."""

    @property
    def batch_size(self) -> int:
        """Images of a batch, on each process."""
        ...

    @property
    def padding(self) -> Padding:
        """Shapes of the batches."""
        ...

    @property
    def workers(self) -> int:
        """Processes that make batches; 0: the calling one."""
        ...

    @property
    def seed(self) -> int:
        """Draws the order of the images and their augmentation."""
        ...

    @property
    def repeat_threshold(self) -> float:
        """Part of the images below which a class is rare, and its images are shown oftener; 0: none is."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """B images and their objects."""

    images: ImageBatch
    targets: Targets
    image_ids: tuple[int | str, ...]  # (B,) of the annotation file

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same on `device`; from page-locked memory the copy runs beside other work."""
        return TrainingBatch(
            images=self.images.to(device, non_blocking=True),
            targets=self.targets.to(device, non_blocking=True),
            image_ids=self.image_ids,
        )

    def pin_memory(self) -> TrainingBatch:
        """The same in page-locked memory."""
        return TrainingBatch(
            images=self.images.pin_memory(), targets=self.targets.pin_memory(), image_ids=self.image_ids
        )


def padded_shape(sizes: Sequence[tuple[int, int]], divisor: int, padding: Padding) -> tuple[int, int]:
    """The one (height, width) that images of `sizes` (height, width) are padded to.

    exact: the largest height and width, made multiples of `divisor` (0: as they are). bucket: few shapes, so that few
    graphs serve all: the shorter side a multiple of 64, the longer of a quarter of the shorter (itself a multiple of
    64). For images resized to 800, at most 1333, that is nearly always 832 x 960, 1152 or 1344, or the same upright.
    """
    height, width = (max(sides) for sides in zip(*sizes, strict=True))
    if padding == "exact":
        return _multiple(height, divisor), _multiple(width, divisor)
    unit = math.lcm(BUCKET, max(1, divisor))
    short = _multiple(min(height, width), unit)
    long = _multiple(max(height, width), max(unit, short // 4 // unit * unit))
    return (short, long) if height <= width else (long, short)


def pad_images(
    images: Sequence[Tensor],
    divisor: int,
    padding: Padding,
    originals: Sequence[tuple[int, int]] | None = None,
    scales: Sequence[float] | None = None,
) -> ImageBatch:
    """B images (3, h, w), uint8 or float32 in 0..255, padded with zeros at the right and bottom to `padded_shape`.

    `originals` are the (height, width) of their files, `scales` by what these were multiplied; where only the files are
    given, by the mean of both sides' factors.
    """
    if not images:
        raise ValueError("a batch has no images, wanted one or more")
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    whole = all(image.dtype == torch.uint8 for image in images)
    shape = padded_shape(sizes, divisor, padding)
    pixels = torch.zeros(len(images), 3, *shape, dtype=torch.uint8 if whole else torch.float32)
    for slot, image, (height, width) in zip(pixels, images, sizes, strict=True):
        slot[:, :height, :width] = image
    if originals is not None and scales is None:
        scales = [
            math.sqrt(size[0] * size[1] / (original[0] * original[1]))
            for size, original in zip(sizes, originals, strict=True)
        ]
    return ImageBatch(
        pixels=pixels,
        sizes=torch.tensor(sizes),
        scales=None if scales is None else torch.tensor(scales, dtype=torch.float32),
        originals=None if originals is None else torch.tensor(originals),
    )


def training_batches(
    dataset: Dataset,
    model: InputConfig,
    settings: LoaderSettings,
    first: int = 0,
    *,
    masks: Masks | None = "polygon",
    keypoints: bool = False,
    crowds: bool = False,
    pairs: tuple[tuple[int, int], ...] | None = None,
    rank: int = 0,
    world: int = 1,
) -> Iterator[TrainingBatch]:
    """The endless stream of training batches from batch `first` on, as process `rank` of `world` sees it.

    Every image comes once in each pass over the data, in an order drawn anew. The images of a batch are all wide or all
    tall, but for one batch a pass, so that little is padded. `masks` and `keypoints` say what the model learns besides
    boxes, `pairs` which keypoints a mirror exchanges (None: left and right by their names in the file); `crowds` keeps
    the boxes of crowds, for a model that learns nothing from what lies in them.

    Raises ValueError here for data that cannot be learnt from, and, when its turn comes, for an image that cannot be
    read or is not of its annotation's size.
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank}, wanted 0 to {world - 1} of {world} processes")
    if not len(dataset):
        raise ValueError(f"{dataset.annotation_file} has no images: there is nothing to learn from")
    if masks is not None and not _any_outline(dataset):
        raise ValueError(
            f"{dataset.annotation_file} has boxes but no outlines, and this model learns masks: "
            "annotate polygons, or train one without masks (`rcnn models` lists them)"
        )
    if keypoints:
        skeleton_of(dataset)
        pairs = _mirror_pairs(dataset, settings.flip) if pairs is None else pairs
    factors = repeat_factors(dataset, settings.repeat_threshold) if settings.repeat_threshold else None
    wide = dataset.sizes[:, 1] >= dataset.sizes[:, 0]
    order = Order(wide, settings.batch_size * world, settings.seed, factors)
    batches = Batches(
        dataset,
        model,
        settings,
        order,
        masks=masks,
        keypoints=keypoints,
        pairs=pairs or (),
        rank=rank,
        crowds=crowds,
    )
    return _in_turn(batches, first) if settings.workers == 0 else _by_workers(batches, first, settings.workers)


class Order:
    """Which images batch n of a stream holds.

    The stream is one permutation of the I images after the other (with `factors`, of as many of each as these say), its
    places numbered from 0; a batch may reach from one pass into the next. The batches that begin in one pass are put
    together from that stretch of the stream, wide images with wide and tall with tall, then shuffled. So any batch is
    found without those before it.
    """

    def __init__(self, wide: np.ndarray, batch_size: int, seed: int, factors: np.ndarray | None = None) -> None:
        """`wide` (I,) bool: which images are as wide as they are high, or wider; `batch_size` over all processes.

        `factors` (I,) float64: how often each image is shown in a pass, 1 or more; none given: once.
        """
        self.wide, self.batch_size, self.seed, self.factors = wide, batch_size, seed, factors
        self.length = len(wide) if factors is None else round(float(factors.sum()))  # places of a pass
        self._stretch: tuple[int, np.ndarray] | None = None  # the last one made, as (its number, its batches)

    def __call__(self, n: int) -> list[tuple[int, int]]:
        """Batch n: for each image its index in the data set, and its place in the stream, which is used once."""
        stretch = n * self.batch_size // self.length
        if self._stretch is None or self._stretch[0] != stretch:
            self._stretch = (stretch, self._batches(stretch))
        index, place = self._stretch[1][n - self._first(stretch)].tolist()
        return list(zip(index, place, strict=True))

    def _first(self, stretch: int) -> int:
        """The first batch that begins in pass `stretch`."""
        return -(-stretch * self.length // self.batch_size)

    def _batches(self, stretch: int) -> np.ndarray:
        """The batches (n, 2, batch_size) that begin in pass `stretch`: index, and place in the stream."""
        count = self.length
        place = np.arange(self._first(stretch) * self.batch_size, self._first(stretch + 1) * self.batch_size)
        passes = [self._pass(number) for number in range(stretch, place[-1] // count + 1)]
        index = np.concatenate(passes)[place - stretch * count]
        grouped = np.argsort(~self.wide[index], kind="stable")
        batches = np.stack([index, place])[:, grouped].reshape(2, -1, self.batch_size).transpose(1, 0, 2)
        return self._draws(SHUFFLE, stretch).permutation(batches)

    def _pass(self, number: int) -> np.ndarray:
        """The images of one pass over the data, in its order."""
        draws = self._draws(ORDER, number)
        if self.factors is None:
            return draws.permutation(len(self.wide))
        return draws.permutation(spread(self.factors, draws.random()))

    def _draws(self, use: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**64, use, number])


class Batches(TorchDataset):
    """Training batches by number. Cheap to send to another process: a data set is a few arrays."""

    def __init__(
        self,
        dataset: Dataset,
        model: InputConfig,
        settings: LoaderSettings,
        order: Order,
        *,
        masks: Masks | None,
        keypoints: bool,
        pairs: tuple[tuple[int, int], ...],
        rank: int,
        crowds: bool = False,
    ) -> None:
        self.dataset, self.model, self.settings, self.order = dataset, model, settings, order
        self.crowds = crowds
        self.masks: Masks | None = masks
        self.keypoints, self.pairs, self.rank = keypoints, pairs, rank

    def __getitem__(self, index: int) -> TrainingBatch:
        """Batch `index` of the stream, this process's part of it."""
        size = self.settings.batch_size
        samples, ids, originals = [], [], []
        for image, place in self.order(index)[self.rank * size : (self.rank + 1) * size]:
            record = self.dataset[image]
            pixels = read_image(record.path)
            sample = make_sample(record, pixels, masks=self.masks, keypoints=self.keypoints, crowds=self.crowds)
            draw = (self.settings.seed, AUGMENT, place)
            samples.append(augment(sample, self.settings, self.model, draw, self.pairs))
            ids.append(record.image_id)
            originals.append((record.height, record.width))
        padded = [sample.image for sample in samples]
        images = pad_images(padded, self.model.divisor, self.settings.padding, originals)
        height, width = images.pixels.shape[2:]
        return TrainingBatch(images=images, targets=collate_targets(samples, (height, width)), image_ids=tuple(ids))


@dataclass(frozen=True)
class _Refused:
    """What a worker met in place of a batch. Sent as a value, it reaches the user as it was raised."""

    error: ValueError | OSError


class _Guarded(TorchDataset):
    """Batches, or the reasons why there are none."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, index: int) -> TrainingBatch | _Refused:
        try:
            return self.batches[index]
        except (ValueError, OSError) as error:
            return _Refused(error)


def _in_turn(batches: Batches, first: int) -> Iterator[TrainingBatch]:
    for n in itertools.count(first):
        yield batches[n]


def _by_workers(batches: Batches, first: int, workers: int) -> Iterator[TrainingBatch]:
    loader = DataLoader(
        _Guarded(batches),
        batch_size=None,
        sampler=itertools.count(first),  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=_unchanged,
        worker_init_fn=_start_worker,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # or it would draw from the process's own
    )
    iterator = iter(loader)
    try:
        while True:
            try:
                batch = next(iterator)
            except Exception as error:
                error.with_traceback(None)  # its frames would keep the workers alive; theirs are in its message
                lost = isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker")
                # a dead worker also shows as a connection that ends, while a batch of its is fetched
                if not lost and not isinstance(error, (EOFError, OSError)):
                    raise
                raise OSError(
                    f"a process that prepares images has ended ({str(error) or 'its connection broke'}): most often "
                    "memory ran out, or /dev/shm did (in Docker: --shm-size=8g). Fewer train.workers need less of "
                    "both; train.workers=0 needs no shared memory"
                ) from error
            if isinstance(batch, _Refused):
                raise batch.error
            yield batch
    finally:
        del iterator  # ends the workers now: an exception's traceback would keep it until the garbage is collected


def _unchanged(batch: Any) -> Any:
    return batch


def _start_worker(number: int) -> None:
    """One thread each, and no answer to Ctrl-C: the main process ends its workers when it has saved its state."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _multiple(side: int, of: int) -> int:
    return -(-side // of) * of if of else side


def _any_outline(dataset: Dataset) -> bool:
    """Whether some object has an outline; True where there are no objects at all."""
    objects = dataset.objects
    outlined = (np.diff(objects.part_starts) > 0) | (np.diff(objects.rle_starts) > 0)
    learnt = ~objects.crowd
    return not learnt.any() or bool(outlined[learnt].any())


def _mirror_pairs(dataset: Dataset, flip: float) -> tuple[tuple[int, int], ...]:
    """The keypoints that a mirror exchanges, by the names in the annotation file."""
    skeleton = skeleton_of(dataset)
    if flip and not skeleton.named:
        raise ValueError(
            f"{dataset.annotation_file} does not name its keypoints, so that left and right cannot be told apart in a "
            'mirror: add "keypoints": ["nose", "left_eye", ...] to the category, give the pairs '
            "(keypoint.flip_pairs=[[1,2],[3,4]], counted from 0), or train with train.flip=0"
        )
    return skeleton.pairs
