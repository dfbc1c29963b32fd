"""Where a checkpoint is: in its folder, in the folder of a run, or in the cache of published weights."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection
from pathlib import Path

from rcnn.commands import as_typed
from rcnn.data.messages import few
from rcnn.models import MODELS
from rcnn.outputs import RUN_LOG, readable_entries
from rcnn.text_files import as_given, missing_text, require_regular
from rcnn.weights.files import CONFIG_FILE, STATE_FILE, WEIGHTS_FILE

FOREIGN = {".pth", ".pt", ".pkl", ".pickle", ".npz", ".bin", ".params", ".h5", ".hdf5"}
EXPORTED = {".onnx", ".pt2", ".xml"}


def weights_folder(path: Path) -> Path:
    """The folder that contains the weights; published weights are downloaded and converted on first use."""
    path = path if path.exists() else _named(str(path))
    require_regular(path)
    if path.is_file():
        if path.name == STATE_FILE:
            raise ValueError(
                f"{path} is the state of a training run, to resume it, and not a checkpoint: give the folder that "
                f"contains {WEIGHTS_FILE}, e.g. {path.parent}"
            )
        if path.suffix == ".bin" and path.with_suffix(".xml").is_file():
            raise ValueError(f"{path} has the weights of an OpenVINO file: give {path.with_suffix('.xml')}")
        if path.suffix.lower() in FOREIGN:
            raise ValueError(f"{path} is a file of another framework: convert it with {_conversion(path)}")
        if path.suffix in EXPORTED:
            raise ValueError(
                f"{path} is an exported file, which only predicts (rcnn.Predictor, `rcnn predict`, `rcnn eval`, "
                "`rcnn serve`); for anything else, give the checkpoint that it was exported from"
            )
        if path.suffix.lower() in EXPORTED:
            raise ValueError(f"{path}: exported files end with {path.suffix.lower()}, in lower case: rename it")
        raise ValueError(f"{path} is a file; expected the folder that contains {WEIGHTS_FILE} and {CONFIG_FILE}")
    for folder in (path, path / "best", path / "last"):
        if os.path.lexists(folder / WEIGHTS_FILE):  # also a broken link, which is then reported
            if folder == path / "last":  # without a stacklevel: a command that opens the run twice warns once
                warnings.warn(f"{path} has no best/ (no evaluation has finished): last/ is used", stacklevel=1)
            return folder
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    shown = few(names, 8) or "nothing"
    foreign = next((name for name in names if Path(name).suffix.lower() in FOREIGN and name != STATE_FILE), None)
    cure = f"; convert that file with {_conversion(path / foreign)}" if foreign else ""
    if not foreign and _is_of_run(path, names):
        cure = f"; {WEIGHTS_FILE} is missing: use another checkpoint of the run, or copy it from a backup"
    raise ValueError(
        f"{path} is not a checkpoint: it has neither {WEIGHTS_FILE} nor best/ or last/ with one. Found: {shown}{cure}"
    )


def _is_of_run(path: Path, names: Collection[str]) -> bool:
    """Whether a folder with the files `names` was a checkpoint of a training run."""
    return STATE_FILE in names or (CONFIG_FILE in names and RUN_LOG in readable_entries(path.absolute().parent)[0])


def _conversion(path: Path) -> str:
    return f"`{as_typed('rcnn', 'convert', path, '--output', 'DIR')}`"


def _named(name: str) -> Path:
    """The cached checkpoint folder of published weights or a Hub repository; errors of `cached_checkpoint`, `pull`."""
    # imported here: the cache writes checkpoints
    from rcnn.weights.catalogue.cache import cached_checkpoint
    from rcnn.weights.catalogue.names import find_entry, is_weight_name, suggestion
    from rcnn.weights.hub import is_hub_name, pull

    if is_hub_name(name):
        return pull(name)
    if is_weight_name(name):
        return cached_checkpoint(find_entry(name))
    if name in MODELS:
        raise FileNotFoundError(
            f"{name} is the name of a model, which has no published weights{suggestion(name)}; expected a checkpoint "
            "folder, the folder of a training run, or a name from `rcnn models weights`. To train one: "
            f"{as_typed('rcnn', 'train', name, '--data', 'DATA')}"
        )
    if Path(name).suffix in EXPORTED:
        pair = " (and the .bin file beside it)" if name.endswith(".xml") else ""
        raise FileNotFoundError(
            f"{as_given(name)} {missing_text(Path(name))}; expected a file that `rcnn export` wrote{pair}"
        )
    raise FileNotFoundError(
        f"{as_given(name)} {missing_text(Path(name))}{suggestion(name)}; expected a checkpoint folder, the folder of a "
        "training run, or a name from `rcnn models weights`"
    )
