"""config.json of a checkpoint: the config of the model, class names, origin, and digests of all files and of itself."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rcnn import __version__
from rcnn.data.messages import few
from rcnn.models.config import CONFIG_VERSION
from rcnn.outputs import sha256_of
from rcnn.text_files import require_file
from rcnn.weights.files import CONFIG_FILE

FORMAT = 1  # raised when an older rcnn could no longer read what this one writes
KINDS = ("detector", "backbone")
DIGEST = "sha256"  # of everything else in the record; spaces and the order of keys do not matter
CURE = "copy the folder again, or use another checkpoint"
RUN_AGAIN = "run that command again, copy the whole folder again, or use another checkpoint"
OBJECT = "an object"
# key -> (type, what is expected)
FIELDS: dict[str, tuple[type, str]] = {
    "rcnn": (str, "a version"),
    "kind": (str, f"one of {', '.join(KINDS)}"),
    "model": (dict, OBJECT),
    "classes": (list, "a list of names"),
    "provenance": (dict, OBJECT),
    "files": (dict, "an object of file names and SHA-256 digests"),
}


class DamagedError(ValueError):
    """A checkpoint that cannot be read. The message is `problem: advice`; the advice differs for cached checkpoints."""

    def __init__(self, problem: str, advice: str = CURE) -> None:
        super().__init__(f"{problem}: {advice}")
        self.problem = problem


def record_text(record: Mapping[str, Any]) -> str:
    """The text of config.json: `record` with the version numbers and the digest added."""
    versions = {"format": FORMAT, "rcnn": __version__, "config_version": CONFIG_VERSION}
    whole: dict[str, Any] = json.loads(json.dumps(versions | dict(record), default=str))
    return json.dumps(whole | {DIGEST: record_digest(whole)}, indent=2) + "\n"


def record_digest(record: Mapping[str, Any]) -> str:
    """The SHA-256 of a record without its own digest."""
    content = {key: value for key, value in record.items() if key != DIGEST}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """The record in file `path`. Raises ValueError that names the file and a key with a wrong value.

    The digest is compared later (`warn_if_changed`): an error about a value is more helpful.
    """
    if not os.path.lexists(path):
        raise DamagedError(f"{path} is missing; it describes the model and the classes", "copy the whole folder")
    require_file(path)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path} is not JSON ({error})") from error
    if not isinstance(record, dict) or "format" not in record:
        raise ValueError(f"{path} is not the config of an rcnn checkpoint: it has no format version")
    for key in ("format", "config_version"):
        if key in record and type(record[key]) is not int:
            raise DamagedError(f"{path}: expected {key} to be an integer, got {json.dumps(record[key])[:80]}")
    if record["format"] > FORMAT:
        raise ValueError(
            f"{path} has format {record['format']}, written by rcnn {record.get('rcnn', '?')}; this is {__version__}, "
            f"which reads up to {FORMAT}: pip install --upgrade rcnn"
        )
    _require_config_version(record, path)
    if missing := [key for key in FIELDS if key not in record]:
        raise DamagedError(f"{path} lacks {', '.join(missing)}")
    for key, (kind, expected) in FIELDS.items():
        if not isinstance(record[key], kind):
            raise DamagedError(f"{path}: expected {key} to be {expected}, got {json.dumps(record[key])[:80]}")
    if record["kind"] not in KINDS:
        raise DamagedError(f"{path}: expected kind to be {FIELDS['kind'][1]}, got {record['kind']!r}")
    for key, values in (("classes", record["classes"]), ("files", list(record["files"].values()))):
        if wrong := [json.dumps(value)[:80] for value in values if not isinstance(value, str)]:
            raise DamagedError(f"{path}: expected {key} to be {FIELDS[key][1]}, got {few(wrong, 1)}")
    return record


def is_record(text: str) -> bool:
    """Whether `text` is the content of a checkpoint's config.json, of any version."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and {"format", *FIELDS} <= record.keys()


def as_written(record: Mapping[str, Any]) -> str:
    """A note for an error in a record's settings: whether it was edited, and which other version of rcnn wrote it."""
    notes = [] if record.get(DIGEST) == record_digest(record) else ["edited or damaged after rcnn wrote it"]
    if record["rcnn"] != __version__:
        notes.append(f"written by rcnn {record['rcnn']}, this is {__version__}")
    return f" ({'; '.join(notes)})" if notes else ""


def warn_if_changed(record: Mapping[str, Any], path: Path) -> None:
    """Warn unless the `record` in file `path` is as rcnn wrote it. It is no error: users edit it to rename classes."""
    if record.get(DIGEST) != record_digest(record):
        warnings.warn(f"{path} is not as rcnn wrote it: it was edited, or it is damaged", stacklevel=2)


def require_digest(path: Path, files: Mapping[str, str], advice: str = RUN_AGAIN) -> None:
    """Raise DamagedError unless the file `path` has the SHA-256 that `files` (of config.json) gives for its name."""
    if files.get(path.name) != sha256_of(path):
        raise DamagedError(
            f"{path} is not the file that was written with the {CONFIG_FILE} beside it (it is damaged, comes from "
            "another checkpoint, or the command that wrote it was stopped)",
            advice,
        )


def _require_config_version(record: Mapping[str, Any], path: Path) -> None:
    """Raise a ValueError unless this version of rcnn knows the keys of the model's config."""
    found = record.get("config_version")
    if found == CONFIG_VERSION:
        return
    newer = isinstance(found, int) and found > CONFIG_VERSION
    cure = "install that version of rcnn, or a later one" if newer else "convert or train the model again"
    raise ValueError(
        f"{path} has config_version {str(found)[:80]}; this is rcnn {__version__}, which reads config_version "
        f"{CONFIG_VERSION}. The checkpoint was written by rcnn {record.get('rcnn', '?')}: {cure}"
    )
