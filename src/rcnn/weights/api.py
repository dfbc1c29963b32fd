"""The public functions `rcnn.load` and `rcnn.convert`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from rcnn.arguments import OUTPUT, as_path, as_text, as_texts, require_switches
from rcnn.models import Detector
from rcnn.models.overrides import Overrides, as_overrides
from rcnn.new_outputs import output_or_new
from rcnn.weights.checkpoint import load_detector
from rcnn.weights.convert import ConvertOptions, checkpoint_place, convert_to_folder


def load(path: str | Path, *, allow: str | Sequence[str] = ()) -> Detector:
    """The detector of a checkpoint folder, a training run (its best checkpoint) or a name, on the CPU in `eval()` mode.

    Names of published weights (`rcnn.list_weights`, "hf:owner/name") are downloaded and converted on first use.

    `allow`: your own code that may be run, for a detector with modules that are not part of rcnn, e.g.
    "my_backbone.py:make_backbone"; without it, such a checkpoint is refused with a ValueError that names the code.

    The class names are in `rcnn.load_checkpoint(path).classes`. To predict on images, use `rcnn.Predictor(path)`.

    Raises FileNotFoundError if there is no such checkpoint or name, ConnectionError if it cannot be downloaded, and
    ValueError if it cannot be read or contains no detector.
    """
    return load_detector(path, allow=allow)[0].eval()


def convert(
    file: str | Path,
    output: str | Path | None = None,
    *,
    config: str | Path | None = None,
    classes: str | Sequence[str] = (),
    overrides: Overrides = (),
    allow_missing: str | Sequence[str] = (),
    allow_unused: str | Sequence[str] = (),
    allow_nonfinite: bool = False,
    log: Callable[[str], object] | None = None,
) -> Path:
    """Convert a checkpoint of another framework to an rcnn checkpoint; returns its folder. Code in the file is not run.

    `output`: the folder to write; default: a new `runs/convert-FILE-N`. `config`: the other framework's configuration
    file, or the name of a model in its zoo. `classes`: the class names; default: those that can be inferred.
    `overrides`: changes to rcnn's config, e.g. ["input.min_size=640"] or {"input.min_size": 640}. `allow_missing`:
    patterns of rcnn's tensor names that may be missing and get initial values; `allow_unused`: patterns of tensor names
    in the file to skip. `allow_nonfinite` accepts weights that are NaN or infinite. `log` receives the lines of the
    report.

    Raises FileNotFoundError, FileExistsError, ImportError or ValueError; then nothing is written.
    """
    file = as_path(file, "the file to convert", "a checkpoint of another framework, as str or Path")
    require_switches(allow_nonfinite=allow_nonfinite)
    options = ConvertOptions(
        settings=None if config is None else as_text(config, "config", path=False) or None,
        classes=classes if isinstance(classes, str) else as_texts(classes, "classes"),
        allow_missing=as_texts(allow_missing, "allow_missing"),
        allow_unused=as_texts(allow_unused, "allow_unused"),
        allow_nonfinite=allow_nonfinite,
        overrides=as_overrides(overrides),
        command="rcnn.convert",
    )
    log = log or (lambda line: None)
    if output is not None and (warning := checkpoint_place(as_path(output, OUTPUT))):
        warnings.warn(warning, stacklevel=2)
    with output_or_new(output, "convert", file) as folder:
        convert_to_folder(file, folder, options, log)
    return folder
