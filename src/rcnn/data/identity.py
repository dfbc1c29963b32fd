"""The identity of the data of a run, which shows whether they have changed since."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rcnn.data.records import Dataset

DESCRIPTIONS = {
    "images": "number of images",
    "objects": "number of objects",
    "sha256": "content of the annotations",
    "image_bytes": "total size of the image files in bytes",
}


def data_identity(dataset: Dataset) -> dict[str, Any]:
    """Counts of images and objects, the digest of the annotations, and the size of all image files together."""
    folder = dataset.folder
    return {
        "images": len(dataset),
        "objects": len(dataset.objects.labels),
        "sha256": _digest(dataset),
        "image_bytes": sum(_bytes(folder / name) for name in dataset.file_names),
    }


def _digest(dataset: Dataset) -> str:
    """SHA-256 of the parts of the annotations that training uses; independent of their format and number of files."""
    objects, outlines = dataset.objects, dataset.objects.outlines
    arrays = [dataset.sizes, objects.starts, objects.boxes, objects.labels, objects.ignored, objects.areas]
    arrays += [outlines.part_starts, outlines.point_starts, outlines.points, outlines.rle_starts, outlines.rle_bytes]
    arrays += [] if objects.keypoints is None else [objects.keypoints]
    digest = hashlib.sha256(json.dumps([dataset.classes, dataset.image_ids, dataset.file_names]).encode())
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _bytes(file: Path) -> int:
    return os.stat(file).st_size if file.exists() else 0  # a missing file is reported when it is read


def identity_changes(before: Any, now: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each split of `now` with data that differs from `before` (the recorded `data_identity`)."""
    changes = list[str]()
    for split, values in now.items():
        known = before.get(split) if isinstance(before, Mapping) else None
        if not isinstance(known, Mapping):
            continue
        differences = [
            f"{description} changed" if key == "sha256" else f"{description} was {known.get(key)}, now {values[key]}"
            for key, description in DESCRIPTIONS.items()
            if known.get(key) != values[key]
        ]
        if differences:
            changes.append(f"the data of split {split} changed since the run was started: {'; '.join(differences)}")
    return changes
