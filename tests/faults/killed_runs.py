"""A tiny training run that can be killed at a file operation, and a comparison of run folders.

The place of the kill is found by Python's audit events: every open, rename, mkdir, remove and rmdir below the run
folder raises one, whatever code does it. Places without an event are added in `_count_calls`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.figure  # noqa: F401 - here, so that not every forked process has to import it
import torch

from rcnn.models import Detector
from rcnn.outputs import MARKER
from rcnn.training import run as training_run
from rcnn.training.log import RunLog, read_log
from rcnn.training.request import RunRequest
from rcnn.training.run import run_training
from rcnn.training.state import read_state
from rcnn.training.validation import evaluate_detector
from rcnn.weights.checkpoint import load_checkpoint
from tests.tiny_data import TINY_MODEL

EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}
WORDS = (
    *TINY_MODEL,
    "train.steps=4",
    "train.batch_size=2",
    "train.workers=0",
    "train.log_every=1",
    "train.warmup_steps=1",
    "train.checkpoint_every=1",
    "train.evaluate_every=2",
    "train.jitter=0.2",
    "train.lr=0.05",
    "box.score_threshold=0.01",
    "train.trackers=[]",  # the names of TensorBoard's files have the time
)


@dataclass(frozen=True)
class TinyRun:
    """A run of the tiny model on `data`, in `output`."""

    data: Path
    output: Path
    words: tuple[str, ...] = WORDS

    def __call__(self, *, resume: bool = False) -> None:
        """Run it in this process, with `rising_metrics` as the evaluation unless that is replaced already."""
        if training_run.evaluate_detector is evaluate_detector:
            training_run.evaluate_detector = rising_metrics  # type: ignore[assignment]
        request = RunRequest(
            model="mask_rcnn_compact",
            data=self.data,
            output=self.output,
            overrides=self.words,
            device="cpu",
            resume=resume,
        )
        run_training(request, log=self._print)

    def _print(self, line: str) -> None:
        self.printed.parent.mkdir(parents=True, exist_ok=True)
        with self.printed.open("a") as file:
            file.write(f"{line}\n")

    @property
    def printed(self) -> Path:
        """The file next to the run folder with the output of all processes of the run."""
        return self.output.parent / "printed"

    def resumed_step(self) -> int:
        """The step at which the run was resumed last; 0 if it started from the beginning."""
        line = r"^(?:resuming .* at step|.* has already finished its) (\d+)"
        steps = re.findall(line, self.printed.read_text(), flags=re.MULTILINE)
        return int(steps[-1]) if steps else 0


def in_child(act: Callable[[], object]) -> int:
    """`act` in a forked process: the signal that killed it (negative), or its status. Its errors are printed."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            act()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:  # the time limit of a test: the child would go on
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise


def run_and_kill(run: Callable[[], object], place: int, folder: Path) -> None:
    """Call `run`, and kill this process before its file operation number `place` below `folder` (-1: never).

    Writes the number of places to the file `places` beside `folder` if it is not killed.
    """
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        if seen == place:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    below = str(folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in EVENTS and any(isinstance(a, str | Path) and str(a).startswith(below) for a in arguments[:2]):
            count()

    _count_calls(count)
    sys.addaudithook(hook)
    run()
    (folder.parent / "places").write_text(str(seen))


def _count_calls(count: Callable[[], object]) -> None:
    """Places without an audit event: before and after an evaluation, and before, within and after a line of the log."""
    write = RunLog.write

    def evaluate(*arguments: Any, **options: Any) -> Any:
        count()
        metrics = rising_metrics(*arguments, **options)
        count()
        return metrics

    def write_line(self: RunLog, *, step: int, **values: object) -> None:
        count()
        size = os.fstat(self._file.fileno()).st_size
        self._file.write('{"step": 1, "lo')
        self._file.flush()
        count()
        os.truncate(self._file.fileno(), size)
        write(self, step=step, **values)
        count()

    training_run.evaluate_detector = evaluate  # type: ignore[assignment]
    RunLog.write = write_line  # type: ignore[method-assign]


def rising_metrics(detector: Detector, *_: object, **__: object) -> dict[str, dict[str, float]]:
    """Replaces the evaluation, in which a random tiny model scores 0: metrics that rise with the steps."""
    steps = next(int(v) for name, v in detector.state_dict().items() if name.endswith("num_batches_tracked"))
    return {kind: {"AP": steps / 10, "AP50": steps / 5} for kind in ("bbox", "segm")}


def contents(folder: Path) -> dict[str, Any]:
    """The contents of a run folder that must not depend on kills: everything except times and durations."""
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    found: dict[str, Any] = {"files": names}
    found["listed"] = sorted({json.loads(line)["file"] for line in (folder / MARKER).read_text().splitlines()})
    found["record"] = json.loads((folder / "config.json").read_text())
    found["log"] = [line | {"seconds": 0} for line in read_log(folder / "log.jsonl")]
    found["curve"] = (folder / "curve.html").read_text()
    for name in ("last", "best", "averaged"):
        if (folder / name).exists():
            checkpoint = load_checkpoint(folder / name)
            found[name] = vars(checkpoint) | {"files": sorted(checkpoint.files)}
    found["state"] = read_state(folder / "last")
    return found


def differences(one: Any, two: Any, where: str = "") -> list[str]:
    """Where two values of `contents` differ."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        same = one.dtype == two.dtype and one.shape == two.shape and torch.equal(one, two)
        return [] if same else [where]
    if isinstance(one, Mapping) and isinstance(two, Mapping):
        missing = [f"{where}.{key}" for key in one.keys() ^ two.keys()]
        return missing + [
            d for key in one.keys() & two.keys() for d in differences(one[key], two[key], f"{where}.{key}")
        ]
    if isinstance(one, Sequence) and isinstance(two, Sequence) and not isinstance(one, str):
        if len(one) != len(two):
            return [f"{where}: {one} / {two}"]
        return [d for i, (a, b) in enumerate(zip(one, two, strict=True)) for d in differences(a, b, f"{where}[{i}]")]
    return [] if one == two else [f"{where}: {one} / {two}"]
