"""Opens what a predictor runs: a detector in memory, a checkpoint, or an exported file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from rcnn.arguments import MODEL, as_text
from rcnn.models import Detector
from rcnn.models.config import DetectorConfig
from rcnn.models.inference import prepare_for_inference
from rcnn.models.overrides import Overrides, as_overrides
from rcnn.preprocess import FittedPreprocessor, Preprocessor, WholeImage, build_preprocessor
from rcnn.runtime.compiled import CompiledDetector, require_compiler
from rcnn.runtime.devices import Precision, choose_precision
from rcnn.runtime.exported import ExportedModel, exported_record, is_exported, open_exported
from rcnn.runtime.record import EXPORT_AGAIN, ExportPrecision, ExportRecord
from rcnn.structures import Detections, ImageBatch
from rcnn.weights.checkpoint import CheckpointRecord, detector_record, load_detector


class Runner(Protocol):
    """What runs a model: a detector (eager or compiled), or an exported file."""

    def predict(self, images: ImageBatch) -> Detections:
        """Detections (B, D) in pixels of the network input, best first."""
        ...


@dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model that is ready to run, with its config, class names, precision and preprocessor."""

    runner: Runner
    detector: Detector | None  # None: an exported file
    config: DetectorConfig
    classes: tuple[str, ...] | None  # None: the model has no names
    precision: ExportPrecision
    preprocessor: Preprocessor | FittedPreprocessor | WholeImage


def open_model(
    source: Detector | str | Path,
    *,
    device: torch.device,
    precision: Precision = "float32",
    overrides: Overrides = (),
    allow: str | Sequence[str] = (),
    compile: bool = False,
) -> OpenModel:
    """The model of a checkpoint, run folder, name of published weights or exported file, or a copy of a detector.

    `precision`, `overrides`, `allow` and `compile` as in `rcnn.Predictor`. Raises ValueError for `overrides` or `allow`
    with an exported file, which has fixed settings, or with a detector; for `compile` with an exported file.
    """
    if not isinstance(source, Detector):
        source = as_text(source, "the model", f"{MODEL}, or a detector", empty=False)
    chosen = choose_precision(precision, device)
    if isinstance(source, str) and is_exported(source):
        _require_none(source, [*as_overrides(overrides), *(["--allow"] if allow else [])])
        if compile:
            raise ValueError(
                f"{source} is an exported file, which its own runtime compiles: leave compile (--compile) out, or use "
                "its checkpoint"
            )
        return _opened_file(open_exported(source, device), precision)
    if compile:
        require_compiler(device)
    classes: tuple[str, ...] | None = None
    loaded = isinstance(source, str)
    if isinstance(source, str):
        source, checkpoint = load_detector(source, overrides, allow=allow)
        classes = checkpoint.classes
    elif overrides or allow:
        raise ValueError("overrides and allow are for checkpoints; change a detector's config before building it")
    detector = prepare_for_inference(source, chosen, keep=not loaded).to(device)
    return OpenModel(
        runner=CompiledDetector(detector) if compile else detector, detector=detector, config=source.config,
        classes=classes, precision=chosen, preprocessor=build_preprocessor(source.config.input),
    )  # fmt: skip


def model_record(source: str | Path, overrides: Overrides = ()) -> CheckpointRecord:
    """The config, class names and origin of a checkpoint, or of an exported file; its model is not prepared to run."""
    if not is_exported(source):
        return detector_record(source, overrides)
    _require_none(source, as_overrides(overrides))
    record = exported_record(source)
    return CheckpointRecord(config=record.config, classes=record.classes, provenance=dict(record.provenance))


def _require_none(source: str | Path, settings: Sequence[str]) -> None:
    """Raise ValueError if there are settings for an exported file."""
    if settings:
        raise ValueError(
            f"{source} is an exported file with fixed settings, so {settings[0]} cannot be used: {EXPORT_AGAIN}"
        )


def _opened_file(model: ExportedModel, precision: Precision) -> OpenModel:
    record = model.record
    if precision not in ("auto", "float32", record.precision):
        raise ValueError(
            f"{model.path} was exported in {record.precision}; it cannot run in {precision}: use --precision auto "
            f"(precision=), or {EXPORT_AGAIN}"
        )
    model.warns = True
    return OpenModel(
        runner=model, detector=None, config=record.config, classes=record.classes, precision=record.precision,
        preprocessor=_preprocessor_of(record),
    )  # fmt: skip


def _preprocessor_of(record: ExportRecord) -> Preprocessor | FittedPreprocessor | WholeImage:
    """What prepares images for an exported file."""
    if record.with_resize:
        return WholeImage()
    if record.size is not None:
        return FittedPreprocessor(record.config.input, record.size)
    return build_preprocessor(record.config.input)
