"""The output of a command in several processes: the first prints its messages, the others print only their errors."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from contextvars import ContextVar
from typing import TextIO

LAUNCHED, TYPED = "RCNN_LAUNCHED", "RCNN_TYPED"  # as in runtime/launch.py, which would import torch
PID, STOPPED = "pid", "stopped"  # as in runtime/in_flight.py
TOLD = "told"  # in STOPPED: the end was printed
COMMAND_LINE: ContextVar[tuple[str, ...]] = ContextVar("command line")  # the words that main() runs
DEBUG: ContextVar[bool] = ContextVar("debug", default=False)  # whether main() shows tracebacks
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # torch's launcher reads the error of a process there


def note_process() -> None:
    """Write the id of this process where the launcher of `--devices` finds it, beside its error file."""
    _note(PID, str(os.getpid()))


def note_stop(number: int, *, told: bool) -> bool:
    """Write that the signal `number` has stopped this process where the launcher of `--devices` finds it.

    `told`: the first process has printed what became of the command; else the launcher prints that it was stopped. A
    later note does not take this back. Returns whether there is such a launcher.
    """
    if not told and _noted(STOPPED).endswith(TOLD):
        return True
    return _note(STOPPED, f"{int(number)} {TOLD if told else ''}")


def _note(name: str, text: str) -> bool:
    if not (path := _note_file(name)):
        return False
    with open(path, "w", encoding="utf-8") as note:
        note.write(text)
    return True


def _noted(name: str) -> str:
    """The text that this process has written as `name`; empty if it has not."""
    path = _note_file(name)
    if not path or not os.path.exists(path):
        return ""
    with open(path, encoding="utf-8") as note:
        return note.read()


def _note_file(name: str) -> str:
    """The file beside the error file; empty if no launcher of `--devices` started this process."""
    file = os.environ.get(ERROR_FILE, "")
    return os.path.join(os.path.dirname(file), name) if file and is_launched() else ""


def with_going_on(text: str, error: BaseException) -> str:
    """`text`, a message about `error`, followed by how to go on, where `error` has a note about it."""
    from rcnn.commands import GOING_ON  # imported here, because `rcnn --help` does not need it

    notes = [note for note in getattr(error, "__notes__", ()) if note.startswith(GOING_ON)]
    return "\n".join([text, *notes[:1]])


def is_one_of_several() -> bool:
    """Whether a launcher started this process together with others."""
    return os.environ.get("WORLD_SIZE", "").strip() not in ("", "1")


def is_launched() -> bool:
    """Whether the launcher of `--devices` or `--max-restarts` started this process."""
    return os.environ.get(LAUNCHED) == "1"


def has_launcher() -> bool:
    """Whether a launcher started this process, alone (`--max-restarts` on one device) or together with others."""
    return is_one_of_several() or is_launched()


def quiet_unless_first() -> None:
    """Print nothing but errors in all processes except the first, because their messages are the same.

    torch does not print the stack of its C++ functions before an error of rcnn. Called before torch is imported.
    """
    if is_one_of_several():
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if is_one_of_several() and os.environ.get("RANK", "0") != "0":
        nowhere = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        sys.stdout, sys.stderr = nowhere, nowhere


def report_failure(error: BaseException, text: str, *, expected: bool) -> None:
    """Print `text`, the message of `error`, unless a launcher prints it.

    `expected`: the user can fix the error, so no traceback is printed.
    """
    import json  # imported here, because `rcnn --help` needs none of these
    import time
    import traceback

    trace = "".join(traceback.format_exception(error))
    kind = type(error).__name__  # by name: the modules of these errors import torch
    # the message of a StalledProcessError names the process that stalled, which is not this one
    lost, common = kind == "LostProcessError", kind in ("DivergedError", "StalledProcessError")
    if file := os.environ.get(ERROR_FILE, ""):
        details = {"message": text, "extraInfo": {"py_callstack": trace, "timestamp": str(int(time.time()))}}
        with open(file, "w", encoding="utf-8") as written:
            json.dump({"message": details, "lost": lost, "common": common, "expected": expected}, written)
    if not has_launcher():
        print(f"rcnn: {with_going_on(text, error)}", file=sys.stderr)
    elif not is_launched() and not lost:
        where = f"process {os.environ.get('RANK', '?')} of {os.environ['WORLD_SIZE']}"
        text = text if expected else f"{text}\n{trace}"
        print(f"rcnn ({where}): {with_going_on(text, error)}", file=sys.__stderr__)


def discard_output(*streams: TextIO) -> None:
    """Discard further output of `streams` (default: stdout and stderr), so that Python's exit does not fail on it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams or (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            os.dup2(nowhere, stream.fileno())
