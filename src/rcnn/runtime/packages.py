"""Imports the packages that run exported files. They send usage data by default; with rcnn, they send nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TELEMETRY = "openvino_telemetry"  # the package with which openvino sends usage data; openvino also runs without it


def import_package(name: str) -> Any:
    """The package `name`, e.g. "openvino", which sends no usage data. Raises ImportError if it is missing."""
    with without_telemetry():
        package: Any = importlib.import_module(name)
    if name == "onnxruntime":
        package.disable_telemetry_events()  # builds for Windows have them
    return package


@contextmanager
def without_telemetry() -> Iterator[None]:
    """Within the block, openvino sends no usage data, also not when it is imported.

    It writes nothing to ~/intel either, unless the program has imported openvino before. openvino has no other switch
    for one program: its `opt_in_out` writes to the user's home, and sends that.
    """
    modules: dict[str, Any] = sys.modules
    if modules.get(TELEMETRY) is None:  # None: cannot be imported, so openvino takes its stub
        before = {TELEMETRY: None} if TELEMETRY in modules else {}
        modules[TELEMETRY] = None
        try:
            yield
        finally:
            del modules[TELEMETRY]
            modules.update(before)
        return
    sender: Any = importlib.import_module(f"{TELEMETRY}.utils.sender").TelemetrySender  # openvino was imported before
    send = sender.send
    sender.send = _send_nothing
    try:
        yield
    finally:
        sender.send = send


def _send_nothing(*given: object) -> None:
    pass
