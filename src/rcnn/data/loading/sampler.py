"""Chooses the images of batch n of a training run, as a function of the seed and n only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rcnn.data.balance import spread

ORDER, SHUFFLE, AUGMENT, REPLACE = range(4)  # purposes of random numbers; each has its own stream

Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Factors = npt.NDArray[np.float64]


class BatchSampler:
    """Maps the number of a batch to its images.

    The images form an endless sequence: random permutations of the I images, one per epoch (with `factors`, images are
    repeated in a permutation). Batches are cut from this sequence, so a batch may contain images of two epochs. Within
    the batches that begin in one epoch, landscape and portrait images are grouped separately, to reduce padding; then
    the batches are shuffled. Any batch can be computed without the earlier ones.

    E.g. with 5 images and a batch size of 2, three batches begin in epoch 0: they have its 5 images, and the first
    image of epoch 1. The other 4 images of epoch 1 are the two batches that begin in it.
    """

    def __init__(self, landscape: Flags, batch_size: int, seed: int, factors: Factors | None = None) -> None:
        """`landscape` (I,): which images are at least as wide as high; `batch_size`: images of all processes together.

        `factors` (I,): how often each image is repeated per epoch, at least 1; None: once.
        """
        self.landscape, self.batch_size, self.seed, self.factors = landscape, batch_size, seed, factors
        self.epoch_length = len(landscape) if factors is None else round(float(factors.sum()))
        self._cached: tuple[int, Indices] | None = None  # (epoch, its batches) of the last call

    def __call__(self, n: int) -> list[tuple[int, int]]:
        """The images of batch n, each as a pair: index in the data set, and position in the sequence.

        A repeated image has the same index, but never the same position.
        """
        epoch = n * self.batch_size // self.epoch_length  # the epoch that the first image of the batch belongs to
        if self._cached is None or self._cached[0] != epoch:
            self._cached = (epoch, self._batches(epoch))
        indices, positions = self._cached[1][n - self._first_batch(epoch)].tolist()
        return list(zip(indices, positions, strict=True))

    def _first_batch(self, epoch: int) -> int:
        """The first batch that begins in `epoch`: the position where the epoch begins / batch size, rounded up."""
        return (epoch * self.epoch_length + self.batch_size - 1) // self.batch_size

    def _batches(self, epoch: int) -> Indices:
        """All batches that begin in `epoch`, (count, 2, batch_size): the image indices of each, and their positions."""
        first, end = self._first_batch(epoch), self._first_batch(epoch + 1)
        position = np.arange(first * self.batch_size, end * self.batch_size)
        last_epoch = position[-1] // self.epoch_length  # the last of these batches may contain images of later epochs
        permutations = [self._permutation(number) for number in range(epoch, last_epoch + 1)]
        index = np.concatenate(permutations)[position - epoch * self.epoch_length]
        landscape_first = np.argsort(~self.landscape[index], kind="stable")
        index, position = index[landscape_first], position[landscape_first]
        batches = np.stack([index.reshape(-1, self.batch_size), position.reshape(-1, self.batch_size)], axis=1)
        return self._generator(SHUFFLE, epoch).permutation(batches)

    def _permutation(self, epoch: int) -> Indices:
        """Image indices of one epoch, in its order."""
        generator = self._generator(ORDER, epoch)
        if self.factors is None:
            return generator.permutation(len(self.landscape))
        return generator.permutation(spread(self.factors, generator.random()))

    def _generator(self, purpose: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed % 2**64, purpose, epoch])
