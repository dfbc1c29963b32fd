"""What identifies the data of a run, so that a resumed run can tell that they changed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn.data.records import Dataset
from rcnn.outputs import sha256_of

MEANINGS = {
    "images": "number of images",
    "objects": "number of objects",
    "sha256": "content of the annotation file",
    "image_bytes": "total size of the image files in bytes",
}


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """Counts of images and objects, the digest of the annotation file, and the size of all image files together."""
    folder = dataset.folder
    return {
        "images": len(dataset),
        "objects": len(dataset.objects.labels),
        "sha256": sha256_of(dataset.annotation_file),
        "image_bytes": sum(_bytes(folder / name) for name in dataset.file_names),
    }


def _bytes(file: Path) -> int:
    return os.stat(file).st_size if file.exists() else 0  # what is missing is reported when it is read


def identity_changes(before: Any, now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each split of `now` with other data than in `before` (the value of a provenance)."""
    changes = list[str]()
    for split, values in now.items():
        known = before.get(split) if isinstance(before, Mapping) else None
        if not isinstance(known, Mapping):
            continue
        differences = [
            f"{meaning} changed" if key == "sha256" else f"{meaning} was {known.get(key)}, now {values[key]}"
            for key, meaning in MEANINGS.items()
            if known.get(key) != values[key]
        ]
        if differences:
            changes.append(f"the data of split {split} changed since the run was started: {'; '.join(differences)}")
    return changes
