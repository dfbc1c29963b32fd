"""The one rule for output folders: nothing that rcnn did not write is ever overwritten. Read folder.py first."""

from rcnn.outputs.apart import inside_data, require_apart
from rcnn.outputs.durable import (
    DISK_FULL,
    REPLACED,
    TEMPORARY,
    free_space,
    naming,
    recover_folder,
    replace_folder,
    require_space,
    sha256_of,
)
from rcnn.outputs.folder import OutputFolder, finish_moves, numbered, require_folder
from rcnn.outputs.marker import (
    CHOOSE_FOLDER,
    MARKER,
    METRICS_FILE,
    PARTIAL,
    PREDICTIONS,
    RUN_LOG,
    files_of_rcnn,
    lock_file,
    readable_entries,
    require_not_in_use,
)

__all__ = [
    "CHOOSE_FOLDER",
    "DISK_FULL",
    "MARKER",
    "METRICS_FILE",
    "PARTIAL",
    "PREDICTIONS",
    "REPLACED",
    "RUN_LOG",
    "TEMPORARY",
    "OutputFolder",
    "files_of_rcnn",
    "finish_moves",
    "free_space",
    "inside_data",
    "lock_file",
    "naming",
    "numbered",
    "readable_entries",
    "recover_folder",
    "replace_folder",
    "require_apart",
    "require_folder",
    "require_not_in_use",
    "require_space",
    "sha256_of",
]
