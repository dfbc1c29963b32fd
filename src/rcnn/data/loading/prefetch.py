"""Copies batches to a GPU on a separate stream while the GPU computes the previous batch."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, closing
from typing import Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from typing_extensions import override

from rcnn.data.loading.training_batch import TrainingBatch


class CopyStream(Protocol):
    """A queue of copies to a device beside the queue of its computations."""

    def copying(self) -> AbstractContextManager[object]:
        """Within the block, copies are queued here."""
        ...

    def wait(self) -> None:
        """Computations that are queued later wait for the copies that were queued so far."""
        ...

    def keep(self, tensor: Tensor) -> None:
        """The memory of `tensor` is not reused before the computations queued so far have finished."""
        ...


class CudaCopyStream(CopyStream):
    """A side stream of a CUDA device."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.stream = device, torch.cuda.Stream(device)

    @override
    def copying(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self.stream)

    @override
    def wait(self) -> None:
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    @override
    def keep(self, tensor: Tensor) -> None:
        tensor.record_stream(torch.cuda.current_stream(self.device))


def prefetched(
    batches: Generator[TrainingBatch, None, None], device: torch.device, stream: CopyStream | None = None
) -> Generator[TrainingBatch, None, None]:
    """The same batches on `device`. On a GPU, the copy of a batch is queued before the previous batch is returned.

    Batches should be in pinned memory, as those of `training_batches` with worker processes are. `stream` defaults to a
    side stream on a CUDA device; on other devices the batches are returned as they are. Closing closes `batches`.
    """
    if stream is None:
        if device.type != "cuda":
            return batches
        stream = CudaCopyStream(device)
    return _copied_ahead(batches, device, stream)


def _copied_ahead(
    batches: Generator[TrainingBatch, None, None], device: torch.device, stream: CopyStream
) -> Generator[TrainingBatch, None, None]:
    def copied() -> TrainingBatch:
        batch = next(batches)
        with stream.copying():
            return batch.to(device)

    with closing(batches):
        ahead = copied()
        while True:
            stream.wait()
            batch, error = ahead, None
            for value in pytree.tree_leaves((batch.images, batch.targets)):
                if isinstance(value, Tensor):
                    stream.keep(value)
            try:
                ahead = copied()
            except Exception as problem:  # raised later, after the step with `batch`
                error = problem
            yield batch
            if error is not None:
                raise error
