"""A note of what a process is working on, for the launcher's report if the process is killed."""

from __future__ import annotations

import os
from pathlib import Path

PID = "pid"  # file there with the id of the process, written by cli/failures.py
IN_FLIGHT = "in_flight"  # file beside the error file that torch's launcher names
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"


class InFlight:
    """Writes the note; without a launcher nothing is written."""

    def __init__(self) -> None:
        error_file = os.environ.get(ERROR_FILE, "")
        self._file = Path(error_file).with_name(IN_FLIGHT).open("w", encoding="utf-8") if error_file else None

    def note(self, text: str) -> None:
        """Replace the note; it reaches the file at once."""
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            self._file.write(text + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
