"""All processes of a run must read the same data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rcnn.data.messages import counted
from rcnn.runtime.processes import Processes


def require_same_data(own: Mapping[str, Mapping[str, Any]], processes: Processes) -> None:
    """Raise ValueError if this process reads other data (`own`: by split) than the first one, e.g. on another machine.

    Their batches would not be parts of one batch. All processes call it together.
    """
    first, keys = processes.share(own), ("images", "objects", "sha256")
    if own.keys() != first.keys():
        raise ValueError(
            f"process {processes.rank} has the splits {', '.join(own)}, but process 0 has {', '.join(first)}. Copy the "
            "same annotation and image files to all machines, and give all processes the same options."
        )
    for split, values in own.items():
        other = first[split]
        if all(values[key] == other[key] for key in keys):
            continue
        ours, theirs = (
            f"{counted(one['images'], 'image')} and {counted(one['objects'], 'object')}" for one in (values, other)
        )
        found = f"process {processes.rank} reads {ours} of split {split}, but process 0 reads {theirs}"
        if ours == theirs:
            found = f"processes 0 and {processes.rank} read {ours} of split {split}, but their annotations differ"
        raise ValueError(f"{found}. Copy the same annotations and image files to all machines.")
