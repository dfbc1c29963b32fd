"""Reports the training images that cannot be read; others take their places (data/loading/batches.py)."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rcnn.data.loading import TrainingBatch
from rcnn.data.messages import counted
from rcnn.runtime.processes import Processes
from rcnn.training.log import SilentLog

SHOWN = 10  # images that are named; of the others, only the number is logged


class UnreadableImages:
    """Logs each image that cannot be read once, and their number when the run ends. A context manager."""

    def __init__(self, processes: Processes, log: SilentLog) -> None:
        self._processes, self._log = processes, log
        self._sent = set[str]()  # by this process
        self._known = set[str]()  # of all processes, in the first one

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if len(self._known) > SHOWN:
            self._log.log(
                f"warning: {counted(len(self._known), 'image')} could not be read, and others took their places: "
                "`rcnn data check` lists them"
            )

    def report(self, batches: Sequence[TrainingBatch]) -> None:
        """Log what is new in the `batches` of a step. All processes call it together."""
        new = dict.fromkeys(text for batch in batches for text in batch.unreadable if text not in self._sent)
        self._sent.update(new)
        if not any(self._processes.most(len(new))):
            return
        for text in (one for own in self._processes.gather(list(new), patient=False) for one in own):
            if text not in self._known and len(self._known) < SHOWN:
                self._log.log(f"warning: {text}. Another image takes its place")
            self._known.add(text)
