"""The notes of a process for its launcher: what it is working on, reported if it is killed, and what stopped it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

PID = "pid"  # file with the id of the process, beside the error file; cli/failures.py writes it
STOPPED = "stopped"  # file: a signal has stopped the process; cli/failures.py writes it
SIGNALLED = "signalled"  # file of the launcher, three folders above: it has got a signal, which it passes on to all
IN_FLIGHT = "in_flight"  # the file of this module, beside the error file
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"  # environment variable: torch's launcher sets the path of the error file


def launcher_was_signalled() -> bool:
    """Whether the launcher of this process has got a signal; else one that stops this process was sent to it alone."""
    folders = Path(os.environ.get(ERROR_FILE, "")).parents[:4]
    return any((folder / SIGNALLED).exists() for folder in folders)


def first_signal(logs: Path) -> tuple[int, str]:
    """The signal that stopped a process before any other one had an error, and this process; 0 if there is none."""
    notes = [(note.stat().st_mtime_ns, note) for note in logs.glob(f"**/{STOPPED}") if note.stat().st_size]
    errors = [path.stat().st_mtime_ns for path in logs.glob("**/error.json")]
    time_ns, first = min(notes, default=(sys.maxsize, Path()))
    if time_ns > min(errors, default=sys.maxsize - 1):
        return 0, ""
    return int(first.read_text(encoding="utf-8").split()[0]), first.parent.name


def signal_of(logs: Path, local_rank: int) -> int:
    """The signal that stopped a process, as it has noted; 0 if none did."""
    words = [note.read_text(encoding="utf-8").split() for note in logs.glob(f"**/{local_rank}/{STOPPED}")]
    return next((int(one[0]) for one in words if one), 0)


class InFlight:
    """Writes what the process is working on. Without a launcher, nothing is written."""

    def __init__(self) -> None:
        error_file = os.environ.get(ERROR_FILE, "")
        self._file = Path(error_file).with_name(IN_FLIGHT).open("w", encoding="utf-8") if error_file else None

    def note(self, text: str) -> None:
        """Replace the content of the file by `text` and flush it."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(text + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
