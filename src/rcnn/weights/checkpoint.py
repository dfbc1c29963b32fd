"""Our own checkpoints: a folder of `model.safetensors` and `config.json`, all that prediction and fine-tuning need.

A checkpoint is written to a temporary folder and moved to its place when complete. Reading it runs no code from it. The
config of a detector with the user's own modules names code (models/own.py), which is run only if the user allows it.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from rcnn.arguments import CHECKPOINT, as_path, is_one_of, shown
from rcnn.commands import as_typed
from rcnn.data.messages import counted, few
from rcnn.models import Detector, DetectorConfig, build_detector
from rcnn.models.overrides import Overrides, as_overrides, config_from_dict, config_to_dict
from rcnn.models.own import allow_factories, require_named
from rcnn.models.unused_settings import override_used
from rcnn.models.validate import validate
from rcnn.outputs import OutputFolder, files_of_rcnn, finish_moves, sha256_of
from rcnn.text_files import require_file
from rcnn.weights.class_names import require_class_names
from rcnn.weights.differences import different_tensors, mismatches, mismatches_text
from rcnn.weights.files import CONFIG_FILE, WEIGHTS_FILE
from rcnn.weights.location import weights_folder
from rcnn.weights.record import DamagedError, as_written, read_record, record_text, require_digest, warn_if_changed

Kind = Literal["detector", "backbone"]
SMALL = 64_000_000  # bytes that a detector may need beyond twice the size of its file: buffers that are not saved
LARGEST_MODEL = 32_000_000_000  # bytes of weights; a ViT of 600 million parameters has 2.4e9


@dataclass(frozen=True, kw_only=True)
class CheckpointRecord:
    """The content of a checkpoint's config.json."""

    config: DetectorConfig
    classes: tuple[str, ...]  # K names; label i is classes[i]
    provenance: dict[str, Any]  # where the weights come from: the converted file, or the settings of the run
    kind: Kind = "detector"  # backbone: only its tensors, to start training from; `classes` is empty
    files: Mapping[str, str] = field(default_factory=dict)  # name -> SHA-256 of the files written with config.json


@dataclass(frozen=True, kw_only=True)
class Checkpoint(CheckpointRecord):
    """A trained detector as data."""

    state: dict[str, Tensor]


def save_checkpoint(
    directory: str | Path,
    detector: nn.Module | Mapping[str, Tensor],
    config: DetectorConfig | None = None,
    classes: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
    *,
    kind: Kind = "detector",
) -> None:
    """Write `detector`, or its state, to the folder `directory`. Files there that rcnn did not write are kept.

    `config` defaults to `detector.config`; a state needs it. `classes` are the class names, "0", "1", ... by default.
    `provenance` is a note on where the weights come from, for the reader of config.json.

    A checkpoint that rcnn wrote there is replaced, once the new one is complete. Raises ValueError if the number of
    classes differs from the config's, or if the config does not say how to build the user's own modules;
    FileExistsError if a file of that name is not from rcnn, OSError if the folder cannot be written; then nothing
    changes.
    """
    if not is_one_of(kind, get_args(Kind)):
        raise ValueError(f"kind={shown(kind, 60)}; expected {' or '.join(get_args(Kind))}")
    if config is None:
        if not isinstance(detector, Detector):
            given = type(detector).__name__
            raise ValueError(f"config is missing: {given} has no config; pass the config of the detector")
        config = detector.config
    if classes is None:
        classes = [] if kind == "backbone" else [str(label) for label in range(config.num_classes)]
    if kind == "detector":
        require_class_names(classes, config.num_classes, str(directory))
    with writing_checkpoint(directory) as folder:
        write_checkpoint(folder, detector, config, classes, provenance or {}, kind=kind)


@contextmanager
def writing_checkpoint(directory: str | Path) -> Iterator[Path]:
    """A temporary folder for `write_checkpoint`; its files are moved to `directory` when the block ends.

    Raises FileExistsError if `directory` has other files of these names, or belongs to another command of rcnn.
    """
    with OutputFolder(directory) as output:
        if others := sorted(files_of_rcnn(directory) - {WEIGHTS_FILE, CONFIG_FILE}):
            raise FileExistsError(
                f"{directory} contains {few(others)} of another rcnn command; a checkpoint needs its own "
                "folder: choose another output (--output)"
            )
        with output.writing_together(WEIGHTS_FILE, CONFIG_FILE) as folder:
            yield folder


def write_checkpoint(
    folder: Path,
    detector: nn.Module | Mapping[str, Tensor],
    config: DetectorConfig,
    classes: Sequence[str],
    provenance: Mapping[str, Any],
    *,
    kind: Kind = "detector",
) -> None:
    """Write the files of a checkpoint into `folder`; config.json lists them, and any others there, with digests."""
    if kind == "detector":
        require_class_names(classes, config.num_classes, str(folder))
        require_named(config, detector.config if isinstance(detector, Detector) else None)
    values = detector.state_dict() if isinstance(detector, nn.Module) else detector
    try:
        save_file(_contiguous(values), folder / WEIGHTS_FILE)
    except SafetensorError as error:
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(folder / WEIGHTS_FILE)) from error
    record = {
        "kind": kind,
        "model": config_to_dict(config),
        "classes": list(classes),
        "provenance": dict(provenance),
        "files": {path.name: sha256_of(path) for path in sorted(folder.iterdir())},
    }
    (folder / CONFIG_FILE).write_text(record_text(record), encoding="utf-8")
    # safetensors makes its file readable by the owner only; who may read the config may read the weights
    (folder / WEIGHTS_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)


def load_checkpoint(path: str | Path, *, allow: str | Sequence[str] = ()) -> Checkpoint:
    """The checkpoint in the folder `path`, in `best/` or `last/` of a training run, or of published weights `path`.

    `allow`: the user's code that building the detector may run, e.g. "my_backbone.py:make_backbone".
    Raises FileNotFoundError if `path` does not exist, ConnectionError if published weights cannot be downloaded, and
    ValueError that says why the checkpoint cannot be read, or which code it needs.
    """
    checkpoint = read_checkpoint(path)
    return replace(checkpoint, config=allow_factories(checkpoint.config, allow, path))


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Like `load_checkpoint`, only to inspect: the config is not checked for code that building the detector runs."""
    folder = weights_folder(as_path(path, "the checkpoint", CHECKPOINT))
    with _naming_the_cache(path, folder):
        record = _read_config(folder)
        weights = folder / WEIGHTS_FILE
        require_file(weights)
        try:
            state = load_file(weights)
        except SafetensorError as error:
            raise DamagedError(f"{weights} is truncated or damaged ({error})") from error
        require_digest(weights, record.files)
    return Checkpoint(**vars(record), state=state)


@contextmanager
def _naming_the_cache(path: str | Path, folder: Path) -> Iterator[None]:
    """Adds to a DamagedError what to do if `folder` is the cached download of the weights called `path`."""
    try:
        yield
    except DamagedError as error:
        if Path(path).exists():
            raise
        kept = folder.parents[1] if folder.parent.name == "snapshots" else folder  # the Hub's links to files in blobs/
        again = f"Delete the folder {kept}; the next command that uses {path} creates it again"
        raise DamagedError(error.problem, f"this is the cached copy of {path}. {again}") from error


def checkpoint_record(path: str | Path) -> CheckpointRecord:
    """Like `read_checkpoint`, but the weights are not read."""
    folder = weights_folder(as_path(path, "the checkpoint", CHECKPOINT))
    with _naming_the_cache(path, folder):
        return _read_config(folder)


def require_undamaged(path: str | Path) -> None:
    """Raise DamagedError unless the checkpoint is as it was written; reads its files, but builds nothing."""
    folder = weights_folder(as_path(path, "the checkpoint", CHECKPOINT))
    with _naming_the_cache(path, folder):
        require_digest(folder / WEIGHTS_FILE, _read_config(folder).files)


def detector_record(path: str | Path, overrides: Overrides = ()) -> CheckpointRecord:
    """The record of a detector's checkpoint, without reading weights; `overrides` and errors as in `load_detector`."""
    _refuse_published_backbone(path)
    record = checkpoint_record(path)
    _require_detector(record.kind, path)
    return replace(record, config=override_used(record.config, overrides))


def _refuse_published_backbone(path: str | Path) -> None:
    """Raise ValueError if `path` is the name of published weights of a backbone, before they are downloaded."""
    if as_path(path, "the checkpoint", CHECKPOINT).exists():
        return
    from rcnn.weights.catalogue.names import find_entry, is_weight_name  # imported here: the cache writes checkpoints

    if is_weight_name(str(path)):
        _require_detector(find_entry(str(path)).kind, path)


def _require_detector(kind: Kind, path: str | Path) -> None:
    if kind == "backbone":
        raise ValueError(
            f"{path} contains only a backbone, which detects nothing: train from it, "
            f"`{as_typed('rcnn', 'train', 'MODEL', '--weights', path, '--data', 'DATA', '--output', 'RUN')}`"
        )


def _read_config(folder: Path) -> CheckpointRecord:
    """The record of the checkpoint in `folder`."""
    finish_moves(folder)
    source = folder / CONFIG_FILE
    record = read_record(source)
    try:
        config = config_from_dict(record["model"])
        validate(config)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{source}{as_written(record)}: {error}") from error
    classes, kind = tuple(record["classes"]), record["kind"]
    if kind == "detector":
        require_class_names(classes, config.num_classes, str(source))
    warn_if_changed(record, source)
    return CheckpointRecord(
        config=config, classes=classes, provenance=record["provenance"], kind=kind, files=record["files"]
    )


def checkpoint_files(path: str | Path) -> tuple[Path, Path]:
    """The two files of the checkpoint in folder `path`, or of the best one of the training run `path`."""
    folder = weights_folder(as_path(path, "the checkpoint", CHECKPOINT))
    return folder / CONFIG_FILE, folder / WEIGHTS_FILE


def load_detector(
    path: str | Path, overrides: Overrides = (), *, allow: str | Sequence[str] = ()
) -> tuple[Detector, Checkpoint]:
    """The detector of a checkpoint or training run, with its weights, and the checkpoint.

    `overrides` are changes to its config, e.g. "box.score_threshold=0.01" (see `override_used`). `allow` and errors are
    as in `load_checkpoint`; a checkpoint of only a backbone is a ValueError.
    """
    _refuse_published_backbone(path)
    checkpoint = load_checkpoint(path, allow=allow)
    _require_detector(checkpoint.kind, path)
    checkpoint = replace(checkpoint, config=override_used(checkpoint.config, overrides))
    in_file = sum(value.nbytes for value in checkpoint.state.values())
    try:
        detector = empty_detector(checkpoint.config, limit=2 * in_file + SMALL)
    except (ValueError, RuntimeError) as error:  # RuntimeError: sizes that torch refuses
        given = as_overrides(overrides)
        changed = f" with {' '.join(given)}" if given else ""
        raise ValueError(f"the model of {path} cannot be built{changed}: {error}") from error
    load_state(detector, checkpoint.state, str(path))
    if problem := nonfinite(checkpoint.state):
        warnings.warn(
            f"{path} has {problem}. Its detections are wrong or missing: use an earlier checkpoint", stacklevel=2
        )
    return detector, checkpoint


def nonfinite(state: Mapping[str, Tensor]) -> str:
    """The tensors that are not finite, as part of a message; empty if all are finite."""
    odd = [name for name, value in state.items() if not value.sum().isfinite()]  # fast; sums may also overflow
    wrong = [name for name in odd if not state[name].isfinite().all()]
    return f"NaN or infinity in {counted(len(wrong), 'tensor')}: {few(wrong)}" if wrong else ""


def empty_detector(config: DetectorConfig, *, limit: int = LARGEST_MODEL) -> Detector:
    """The detector of `config` with uninitialized weights; load a state before using it.

    Raises ValueError if its weights take more than `limit` bytes: a damaged config can ask for any amount of memory.
    """
    with _Uninitialized(limit):
        return build_detector(config)


class _Uninitialized(TorchFunctionMode):
    """Skips the initialization of weights, which takes most of the time of building, and limits their memory."""

    allocating = frozenset([torch.empty, torch.zeros, torch.ones, torch.full])
    skipped = frozenset(
        [getattr(nn.init, name) for name in ("kaiming_uniform_", "kaiming_normal_", "normal_", "uniform_")]
        + [Tensor.normal_, Tensor.uniform_]
    )

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit = limit
        self.allocated = 0

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.skipped:
            return args[0] if args else kwargs["tensor"]
        if func in self.allocating:
            self.allocated += func(*args, **{**kwargs, "device": "meta"}).nbytes
            if self.allocated > self.limit:
                raise ValueError(
                    f"the weights of this model would take more than {self.limit / 1e6:,.0f} MB; check its numbers of "
                    "channels, layers and classes"
                )
        return func(*args, **kwargs)


def load_state(detector: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Load `state` into `detector`. Raises ValueError that names `source` and the tensors that do not fit."""
    expected = detector.state_dict()
    other_types = [
        f"{name} {state[name].dtype} (expected {value.dtype})"
        for name, value in expected.items()
        if name in state and state[name].is_floating_point() != value.is_floating_point()
    ]
    if problems := mismatches_text(mismatches(expected, state) | {"of another type": other_types}):
        why = different_tensors(expected, state)
        reasons = f"{'; '.join(why)}. " if why else ""
        raise ValueError(f"{source} does not fit the detector of its config: {reasons}Tensors {problems}")
    detector.load_state_dict(dict(state))


def _contiguous(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`values` as safetensors requires them: on the CPU, contiguous, and without shared memory."""
    state: dict[str, Tensor] = {}
    used: set[int] = set()  # addresses: two names may have one tensor
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"the state has {name} of type {type(value).__name__}; expected tensors (torch.from_numpy)"
            )
        value = value.detach().cpu()
        whole = value.is_contiguous() and value.untyped_storage().nbytes() == value.nbytes
        alone = whole and value.data_ptr() not in used
        state[name] = value if alone else value.clone(memory_format=torch.contiguous_format)
        used.add(value.data_ptr())
    return state
