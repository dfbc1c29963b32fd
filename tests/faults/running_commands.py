"""Commands of rcnn that run beside the test, which sends signals to them or to their worker processes.

They are forked from a server that has imported rcnn (see forked_commands.py), and end as `python -m rcnn` does.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rcnn.cli.main import main
from tests.faults.forked_commands import default_signals, forked
from tests.narrow import instance


class RunningCommand:
    """`rcnn WORDS` in a process of its own, which leads a new process group; it prints to files in `folder`."""

    def __init__(self, folder: Path, words: Sequence[object]) -> None:
        self.printed, self.errors = folder / "printed.txt", folder / "errors.txt"
        self.printed.touch()
        self.errors.touch()
        self.process = forked(_run, self.printed, self.errors, [str(word) for word in words])
        self.pid = instance(self.process.pid, int)

    def has_ended(self) -> bool:
        """Whether the process has ended."""
        return not self.process.is_alive()

    def wait(self, seconds: float) -> tuple[int, str, str]:
        """Exit status (negative: a signal), stdout and stderr; fails if the process has not ended after `seconds`."""
        self.process.join(seconds)
        status, printed, errors = self.process.exitcode, self.printed.read_text(), self.errors.read_text()
        assert status is not None, f"the command has not ended after {seconds} seconds; {printed}\n{errors}"
        return status, printed, errors


@contextmanager
def running(*words: object) -> Iterator[RunningCommand]:
    """`rcnn WORDS`, which is killed at the end of the block if it still runs."""
    with tempfile.TemporaryDirectory() as folder:
        command = RunningCommand(Path(folder), words)
        try:
            yield command
        finally:
            command.process.kill()
            command.process.join()


def _run(printed: Path, errors: Path, words: Sequence[str]) -> None:
    """What `python -m rcnn WORDS` does after its imports, until its end."""
    os.setsid()
    default_signals()
    for path, descriptor in ((printed, 1), (errors, 2)):
        with path.open("w") as file:
            os.dup2(file.fileno(), descriptor)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    sys.argv = ["rcnn", *words]
    status = 1
    try:
        main()
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        for worker in multiprocessing.active_children():
            worker.terminate()
            worker.join()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
