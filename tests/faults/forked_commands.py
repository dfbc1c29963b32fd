"""Commands of rcnn in forked processes, which send themselves a signal at a certain place.

A new process of Python would spend seconds on imports. The processes are forked from a server that has imported rcnn
and done nothing else: in a fork of the test's process, code whose threads were started before, such as COCO's, hangs.
"""

from __future__ import annotations

import multiprocessing
import os
import pkgutil
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rcnn.cli.main import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS = 300  # that a command may take; the machine may be busy
IMPORTED = ("rcnn.predictor", "rcnn.evaluation.api", "rcnn.training.run", "rcnn.weights.convert", __name__)


def nothing() -> None:
    """Change nothing before a command."""


def forked(act: Callable[..., object], *arguments: object) -> BaseProcess:
    """A process that calls `act(*arguments)`, started as a fork of a server that has imported rcnn."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    process = context.Process(target=act, args=arguments)
    process.start()
    return process


def default_signals() -> None:
    """Signals end this process; a shell starts background jobs with SIGINT ignored, which a child inherits."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def command(
    output: Path, *words: object, before: Callable[[], object] = nothing, option: str = "--output"
) -> tuple[int, str]:
    """Run `rcnn WORDS --output OUTPUT` in a forked process after `before`, which must be picklable.

    Returns its exit status (negative: a signal), and its stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        errors = Path(folder) / "errors.txt"
        process = forked(_run, errors, [str(word) for word in (*words, option, output)], before)
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise AssertionError(f"rcnn {words} has not ended after {SECONDS} seconds; {errors.read_text()}")
        return process.exitcode, errors.read_text()


def _run(errors: Path, words: Sequence[str], before: Callable[[], object]) -> None:
    status = 1
    try:
        default_signals()
        with errors.open("w") as file, open(os.devnull, "w") as nowhere:
            os.dup2(file.fileno(), 2)
            sys.stdout, sys.stderr = nowhere, file
            before()
            main(words)
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1
    finally:
        os._exit(status)


def signal_at(place: int, owner: str, name: str, number: int) -> None:
    """Have this process send itself the signal `number` when it calls `owner.name` for time `place`, from 0.

    `owner` is a module or "module:class".
    """
    found = pkgutil.resolve_name(owner)
    function, calls = getattr(found, name), iter(range(1000))

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == place:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    setattr(found, name, counted)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
