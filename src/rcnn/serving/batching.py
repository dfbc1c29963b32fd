"""One thread runs the model on small batches of waiting images with the same padded shape.

The number of waiting images is limited; further images are refused at once, so an overload delays no other request.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from torch import Tensor

from rcnn.data.loading.padding import padded_shape
from rcnn.predictor import Predictor
from rcnn.preprocess import Frame
from rcnn.results import ImageDetections


class Busy(Exception):
    """The queue is full."""


class Closed(Exception):
    """The service is stopping."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """One prepared image that waits for the model."""

    image: Tensor  # (3, h, w)
    frame: Frame
    shape: tuple[int, int]  # (height, width) when padded
    score: float  # detections with a lower score may be left out
    deadline: float  # time.monotonic() at which the client stops waiting for the result
    done: Future[ImageDetections] = field(default_factory=Future)


class Batcher:
    """Runs `predictor` on batches of up to `max_batch` jobs; at most `capacity` jobs wait."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        max_batch: int,
        capacity: int,
        on_batch: Callable[[int, float], object] = lambda images, seconds: None,
    ) -> None:
        """`on_batch` is called after each batch with its number of images and its time in seconds."""
        self._predictor, self._max_batch, self._capacity, self._on_batch = predictor, max_batch, capacity, on_batch
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="rcnn-batches", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, image: Tensor, frame: Frame, seconds: float, score: float = 0.0) -> Future[ImageDetections]:
        """The future result of a prepared image; it is dropped if it waits longer than `seconds`.

        Detections with a score below `score` may be left out. Raises Busy if the queue is full,
        Closed if the batcher is closed.
        """
        config = self._predictor.config.input
        job = Job(
            image=image, frame=frame, score=score, deadline=time.monotonic() + seconds,
            shape=padded_shape([frame.size], config.divisor, self._predictor.padding),
        )  # fmt: skip
        with self._changed:
            if self._closed:
                raise Closed
            if len(self._waiting) >= self._capacity:
                raise Busy
            self._waiting.append(job)
            self._changed.notify()
        return job.done

    def close(self) -> None:
        """Finish the waiting jobs, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            started = time.monotonic()
            try:
                images, frames = [job.image for job in batch], [job.frame for job in batch]
                found = self._predictor.detect(images, frames, min(job.score for job in batch))
            except Exception as error:  # the thread continues with the next requests
                for job in batch:
                    job.done.set_exception(error)
                continue
            self._on_batch(len(batch), time.monotonic() - started)
            for job, result in zip(batch, found, strict=True):
                job.done.set_result(result)

    def _next(self) -> list[Job]:
        """The oldest job and others of the same shape; empty when the batcher is closed and no job waits."""
        with self._changed:
            while True:
                while not self._waiting and not self._closed:
                    self._changed.wait()
                if not self._waiting:
                    return []
                now = time.monotonic()
                alive = [job for job in self._waiting if job.deadline > now and not job.done.cancelled()]
                batch = [job for job in alive if job.shape == alive[0].shape][: self._max_batch]
                self._waiting = deque(job for job in alive if job not in batch)
                batch = [job for job in batch if job.done.set_running_or_notify_cancel()]
                if batch:
                    return batch
