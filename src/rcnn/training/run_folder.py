"""The folder of a run while it is written: found_run.py lists what it contains."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from rcnn.commands import as_typed
from rcnn.evaluation.folder import THRESHOLDS_FILE
from rcnn.models import Detector, DetectorConfig
from rcnn.outputs import CHOOSE_FOLDER, OutputFolder, recover_folder, replace_folder
from rcnn.text_files import require_file
from rcnn.training.disk_space import tensor_bytes
from rcnn.training.found_run import CHECKPOINTS, FAILURE, NAMES, RECORD, WRITABLE
from rcnn.training.sharding import divided_state, whole_state
from rcnn.training.state import TrainState, read_state, write_state
from rcnn.weights.checkpoint import load_state, nonfinite, read_checkpoint, write_checkpoint
from rcnn.weights.files import CONFIG_FILE, STATE_FILE, WEIGHTS_FILE
from rcnn.weights.record import require_digest

CHECKPOINT_FILES = (WEIGHTS_FILE, CONFIG_FILE, STATE_FILE, THRESHOLDS_FILE)  # what a run writes to last/ and best/


class RunFolder:
    """The folder of a run while it is written, locked against other processes. Use as a context manager."""

    def __init__(
        self,
        path: Path,
        *,
        classes: tuple[str, ...],
        provenance: Mapping[str, Any],
        writes: bool = True,
        resumes: bool = False,
    ) -> None:
        """`classes` and `provenance` go into each checkpoint. Errors as for `OutputFolder`.

        `writes`: false where another process of the run writes: then methods that write have no effect. `resumes`: the
        run continues in this folder, so that no other one can be chosen.
        """
        self.path, self.classes, self.provenance = path, classes, provenance
        self._output = OutputFolder(path, advice=WRITABLE if resumes else CHOOSE_FOLDER) if writes else None
        for name in CHECKPOINTS if writes else ():
            recover_folder(path / name, names=CHECKPOINT_FILES)  # after a process that was killed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._output is not None:
            self._output.__exit__(kind, error, trace)

    def claim(self, *, resumes: bool) -> None:
        """Reserve the names of a run's files. For a run that `resumes`, existing files of these names are its own.

        FileExistsError for a new run if another process has trained here since this one was planned.
        """
        if self._output is None:
            return
        there = [name for name in CHECKPOINTS if (self.path / name / WEIGHTS_FILE).exists()]
        if there and not resumes:
            raise FileExistsError(
                f"{self.path}/{there[0]} was written by another rcnn process while this one started: choose another "
                "output (--output)"
            )
        for name in NAMES:
            if name == FAILURE:  # rarely written: if it is the user's, it stays
                continue
            self._output.adopt(name) if resumes else self._output.claim(name)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Write config.json."""
        if self._output is not None:
            self._output.write_json(RECORD, record, indent=2, durable=True)

    def note_failure(self, error: Exception) -> None:
        """Write the message of the error that ends the run, for `rcnn runs`; nothing where that cannot be written."""
        expected = isinstance(error, (ValueError, OSError))
        text = str(error) if expected and str(error) else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # e.g. a full disk, which must not hide the error
            self.write_text(FAILURE, text + "\n")

    def forget_failure(self) -> None:
        """Remove the message of the error that ended the run earlier."""
        if self._output is not None:
            self._output.discard(FAILURE)

    def write_text(self, name: str, text: str) -> None:
        """Replace the file `name`."""
        if self._output is not None:
            self._output.write_text(name, text)

    def write_file(self, name: str, write: Callable[[Path], object]) -> None:
        """Replace the file `name` by what `write` writes to a temporary path."""
        if self._output is not None:
            with self._output.writing(name) as path:
                write(path)

    def save(self, name: str, detector: Detector, *, thresholds: Mapping[str, Any] | None = None) -> None:
        """Replace the checkpoint `name` by one of `detector`. All processes call it together.

        `thresholds`: the content of its thresholds.json. FileExistsError if `name` is a file of the user.
        """
        weights = whole_state(detector.state_dict())
        if self._output is not None and name not in CHECKPOINTS:
            self._output.claim(name)

        def fill(folder: Path) -> None:
            self._write_weights(folder, detector.config, weights)
            if thresholds is not None:
                (folder / THRESHOLDS_FILE).write_text(json.dumps(thresholds, indent=2) + "\n", encoding="utf-8")

        self._replace(name, fill, tensor_bytes(weights))

    def save_state(self, name: str, state: TrainState) -> None:
        """Replace the checkpoint `name` by one that a run can resume from. All processes call it together."""
        weights, values = whole_state(state.detector.state_dict()), state.contents()

        def fill(folder: Path) -> None:
            write_state(values, folder)
            self._write_weights(folder, state.detector.config, weights)

        self._replace(name, fill, tensor_bytes([weights, values]))

    def _write_weights(self, folder: Path, config: DetectorConfig, weights: Mapping[str, Tensor]) -> None:
        write_checkpoint(folder, weights, config, self.classes, self.provenance)

    def _replace(self, name: str, fill: Callable[[Path], object], size: int) -> None:
        """Replace the checkpoint `name` by the files of `fill`, about `size` bytes; other files in it are kept."""
        if self._output is not None:
            replace_folder(self.path / name, fill, size, names=CHECKPOINT_FILES)

    def load_last(self, state: TrainState) -> Mapping[str, Any]:
        """Restore `state` from last/, and return the provenance of last/. ValueError if last/ does not fit `state`."""
        last = self.path / "last"
        checkpoint = read_checkpoint(last)
        if os.path.lexists(last / STATE_FILE):  # before it is read, because a damaged file can contain anything
            require_file(last / STATE_FILE)
            require_digest(last / STATE_FILE, checkpoint.files, _new_run(last))
        values = read_state(last)
        load_state(state.detector, divided_state(checkpoint.state, state.detector), str(last))
        if problem := nonfinite(checkpoint.state):
            raise ValueError(f"{last} has {problem}, so it cannot be trained: {_new_run(last.parent / 'best')}")
        try:
            state.restore(values)
        except (ValueError, TypeError, LookupError, RuntimeError, AttributeError) as error:
            raise ValueError(
                f"{last / STATE_FILE} does not fit the weights beside it ({error}): {_new_run(last)}"
            ) from error
        return checkpoint.provenance


def _new_run(checkpoint: Path) -> str:
    start = as_typed("rcnn", "train", checkpoint, "--data", "DATA", "--output", "NEW_RUN")
    return f"restore it from a copy, or start a new run: {start}"
