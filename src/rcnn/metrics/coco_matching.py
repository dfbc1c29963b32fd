"""Matches the results of one kind of metric with the ground truth, in threads beside the caller.

The matching itself, COCO's greedy rule, is hotcoco's (`StreamingEval`); this module decides when it runs. hotcoco works
without Python's lock, so a model, or the matching of another kind, goes on meanwhile.

Each call of `KindMatching.add` starts a thread, which does two things:

1. It converts the results to hotcoco's form. Several calls may do so at the same time.
2. It waits until the call before has ended, and then matches. So the calls match one after the other, in the order in
   which they were added: hotcoco refuses two at a time, and the order decides between equal scores.

An error ends the thread of its call, and of all later calls, which wait for it and raise the same error; it is raised
for the caller by the next `add`, `raise_errors` or `finish`. Up to `MAX_UNFINISHED` calls keep their results in memory;
the next one makes the caller wait. Threads are daemons: an interrupt does not wait for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import numpy.typing as npt

from rcnn.background import in_background
from rcnn.metrics.coco_entries import ground_truth_of_kind, hotcoco_results
from rcnn.metrics.inputs import Entry, EvaluationInputs
from rcnn.ops.coco_backend import COCOeval, Params, StreamingEval

MAX_UNFINISHED = 4  # calls of one kind that may wait for their turn


class KindMatching:
    """The results of one kind, matched with their objects while they are added."""

    def __init__(
        self,
        inputs: EvaluationInputs,
        kind: str,
        limits: Sequence[int],
        keypoint_sigmas: Sequence[float] | None,
    ) -> None:
        """`limits` are the ascending limits of detections per image and class; `keypoint_sigmas` as in the OKS."""
        self._inputs, self._kind = inputs, kind
        truth = ground_truth_of_kind(inputs, kind)
        self._objects: dict[int, list[Entry]] = {}  # by number of the image
        for entry in truth["annotations"]:
            self._objects.setdefault(entry["image_id"], []).append(entry)
        own_type = "bbox" if kind == "proposals" else kind
        params = Params(own_type)
        params.maxDets = list(limits)
        if kind == "keypoints" and keypoint_sigmas is not None:
            params.kpt_oks_sigmas = list(keypoint_sigmas)
        self._evaluation = StreamingEval(truth["categories"], own_type, params=params)
        self._last_call: Future[None] = Future()  # the call that was added last
        self._last_call.set_result(None)  # none yet
        self._unfinished: deque[Future[None]] = deque()  # calls that were not seen to end, in order

    def add(self, images: Sequence[Entry], results: Sequence[Entry], columns: npt.NDArray[np.float64]) -> None:
        """Match the `results` of these images after those that were added before; `columns` as in `hotcoco_results`.

        If `MAX_UNFINISHED` calls have not ended, the first of them is awaited. Raises as `raise_errors`.
        """
        self.raise_errors()
        if len(self._unfinished) == MAX_UNFINISHED:
            self._unfinished.popleft().result()
        self._last_call = in_background(self._match, self._last_call, images, results, columns)
        self._unfinished.append(self._last_call)

    def raise_errors(self) -> None:
        """Raise the error of an earlier call, if one has failed; does not wait."""
        while self._unfinished and self._unfinished[0].done():
            self._unfinished.popleft().result()

    def _match(
        self,
        call_before: Future[None],
        images: Sequence[Entry],
        results: Sequence[Entry],
        columns: npt.NDArray[np.float64],
    ) -> None:
        """What the thread of one call does."""
        detections, masks = hotcoco_results(self._inputs, results, columns, self._kind)
        objects = [entry for image in images for entry in self._objects.get(image["id"], ())]
        call_before.result()  # waits until it has ended, and raises its error
        self._evaluation.update(list(images), objects, detections, segmentation=masks)

    def finish(self) -> COCOeval:
        """Wait for the last call; the evaluation of all images that were added. Raises the first error of a call."""
        self._last_call.result()
        return self._evaluation.finalize()
