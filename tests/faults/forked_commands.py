"""Commands of rcnn in forked processes, which send themselves a signal at a certain place.

A new process of Python would spend seconds on imports.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rcnn.cli.main import main

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def command(
    output: Path, *words: object, before: Callable[[], object] = lambda: None, option: str = "--output"
) -> tuple[int, str]:
    """Run `rcnn WORDS --output OUTPUT` in a forked process after `before`.

    Returns its exit status (negative: a signal), and its stderr.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt", delete=False) as file:
        errors = Path(file.name)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for number in SIGNALS:  # a shell starts background jobs with SIGINT ignored, which a child inherits
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            with errors.open("w") as file, open(os.devnull, "w") as nowhere:
                os.dup2(file.fileno(), 2)
                sys.stdout, sys.stderr = nowhere, file
                before()
                main([str(word) for word in (*words, option, output)])
            status = 0
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 1
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = errors.read_text()
    errors.unlink()
    return status, text


def signal_at(place: int, owner: Any, name: str, number: int) -> None:
    """Have this process send itself the signal `number` when it calls `owner.name` for time `place`, from 0."""
    function, calls = getattr(owner, name), iter(range(1000))

    def counted(*arguments: Any, **options: Any) -> Any:
        if next(calls) == place:
            os.kill(os.getpid(), number)
        return function(*arguments, **options)

    setattr(owner, name, counted)


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []
