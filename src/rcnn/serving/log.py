"""Messages of uvicorn: warnings, e.g. of a request that is no HTTP, are JSON lines like those of the requests."""

from __future__ import annotations

import json
import logging
from typing import Any

from typing_extensions import override
from uvicorn.config import LOGGING_CONFIG
from uvicorn.logging import DefaultFormatter

LOGGING: dict[str, Any] = LOGGING_CONFIG | {
    "formatters": LOGGING_CONFIG["formatters"]
    | {"default": LOGGING_CONFIG["formatters"]["default"] | {"()": "rcnn.serving.log.WarningLines"}}
}


class WarningLines(DefaultFormatter):
    """Warnings as JSON; errors stay text, because people read their tracebacks."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        """The lines of a message."""
        if record.levelno != logging.WARNING:
            return super().format(record)
        return json.dumps({"time": record.created, "level": "warning", "message": record.getMessage()})
