"""The public functions `rcnn.list_weights` and `rcnn.download_weights`."""

from __future__ import annotations

from pathlib import Path

from rcnn.arguments import OUTPUT, as_path, as_text
from rcnn.models import MODELS
from rcnn.outputs import require_folder
from rcnn.weights.catalogue import names
from rcnn.weights.catalogue.cache import cached_checkpoint, copy_checkpoint
from rcnn.weights.hub import folder_name, is_hub_name, pull


def list_weights(model: str = "") -> list[str]:
    """The names of published weights; with `model`, those of that model trained on COCO, its default first.

    Commands, `rcnn.Predictor`, `rcnn.load`, `rcnn.evaluate` and `rcnn.train` accept these names. Raises ValueError for
    the name of weights, and with similar names for an unknown model.
    """
    model = as_text(model, "the model", "the name of a model")
    if not model:
        return list(names.entries())
    found = [entry.name for entry in names.detectors_of(model)]
    if not found and model not in MODELS:
        entry = names.find_entry(model)
        example = f", e.g. {entry.model}" if entry.model in MODELS else ""
        raise ValueError(f"{model} is the name of weights; expected that of a model{example}")
    return found


def download_weights(name: str, output: str | Path | None = None) -> Path:
    """Download published weights if they are not in the cache, verify and convert them; returns the checkpoint folder.

    `name` is a model or MODEL@TAG, see `list_weights`, or hf:owner/name[@revision] on the Hugging Face Hub. With
    `output`, the checkpoint is copied to `output/NAME`; for the Hub, NAME has no owner (`name` or `name@revision`).

    Raises ValueError for an unknown name or a file that is not the published one, ConnectionError if it cannot be
    downloaded, FileNotFoundError if downloads are forbidden (RCNN_OFFLINE=1), ImportError for the Hub without
    rcnn[hub], FileExistsError if `output/NAME` contains other files.
    """
    name = as_text(name, "the weights", "a name of rcnn.list_weights(), or hf:owner/name", empty=False)
    if output is not None:
        require_folder(as_path(output, OUTPUT))  # before the download
    if is_hub_name(name):
        folder = pull(name)
        return folder if output is None else copy_checkpoint(folder, Path(output) / folder_name(name))
    entry = names.find_entry(name)
    folder = cached_checkpoint(entry)
    return folder if output is None else copy_checkpoint(folder, Path(output) / entry.name)
