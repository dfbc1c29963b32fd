"""A file with what a process is working on; the launcher reports it if the process is killed."""

from __future__ import annotations

import os
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
