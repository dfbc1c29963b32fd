"""The record in an exported file: config, class names, inputs and outputs. It is stored as JSON inside the file.

ONNX: the metadata entry `rcnn`; torch.export: the extra file `rcnn.json`; OpenVINO: the runtime info `rcnn`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rcnn import __version__
from rcnn.data.messages import brief, counted, few
from rcnn.models import DetectorConfig
from rcnn.models.legacy.file_boxes import clips_to_file
from rcnn.models.overrides import config_from_dict, config_to_dict
from rcnn.models.validate import validate

FORMAT = 1  # increased when older versions of rcnn cannot read what this version writes
KEY = "rcnn"  # name of the record inside a file
EXPORT_AGAIN = "export the checkpoint again with `rcnn export`"

Target = Literal["onnx", "torch", "openvino"]
ExportPrecision = Literal["float32", "float16", "bfloat16", "int8"]
SUFFIXES: dict[Target, str] = {"onnx": ".onnx", "torch": ".pt2", "openvino": ".xml"}


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """What an exported file contains."""

    config: DetectorConfig
    classes: tuple[str, ...]  # K names; label i is classes[i]
    target: Target
    precision: ExportPrecision = "float32"
    batch: int | None = None  # images per run; None: any number
    size: tuple[int, int] | None = None  # (height, width) of the padded input; None: any
    least_size: tuple[int, int] = (1, 1)  # smallest padded (height, width) where `size` is None
    with_resize: bool = False  # the file resizes: its only input is `image` (1, 3, H, W) uint8, of any size
    inputs: tuple[str, ...] = ("images", "sizes")  # of the network
    outputs: tuple[str, ...] = ("boxes", "scores", "labels", "valid")
    provenance: Mapping[str, Any] = field(default_factory=dict)  # of the checkpoint
    quantization: Mapping[str, Any] = field(default_factory=dict)  # of int8: export.int8.Quantization as JSON

    @property
    def float_images(self) -> bool:
        """Whether the input is float32 in 0..255: where the checkpoint's framework resizes to fractions."""
        return self.config.input.resize not in ("antialias", "opencv")

    def lines(self) -> list[str]:
        """What `rcnn models show FILE` prints before the settings: target, inputs, classes, and how int8 was made."""
        size = "x".join(map(str, self.size or self.least_size))
        images = "any number of images" if self.batch is None else f"batch of {self.batch}"
        if self.with_resize:
            shape = "one image of any size, which the file resizes"
        elif self.size is None:
            shape = f"{images} of any size from {size} (height x width)"
        else:
            shape = f"{images} of {size} (height x width)"
        return [
            f"{self.target} file in {self.precision}: {shape}",
            f"inputs: {', '.join(['image'] if self.with_resize else self.inputs)}; outputs: {', '.join(self.outputs)}",
            f"classes: {few(self.classes)}",
            *self._quantized(),
        ]

    def _quantized(self) -> list[str]:
        if not self.quantization:
            return []
        try:
            return _quantized(self.quantization)
        except (KeyError, TypeError, ValueError, AttributeError):  # changed by another program
            return [f"int8: how it was made cannot be read; {EXPORT_AGAIN}"]

    def text(self) -> str:
        """The record as JSON."""
        values = vars(self) | {"config": config_to_dict(self.config), "format": FORMAT, "rcnn": __version__}
        return json.dumps(values, default=str)


def _quantized(values: Mapping[str, Any]) -> list[str]:
    """How an int8 file was made, and the cost; the values are those of `export.int8.Quantization`."""
    layers, kept = values["layers"], len(values["float_layers"])
    lines = [f"int8: {layers - kept} of {layers} layers, calibrated on {counted(int(values['images']), 'image')}"]
    if values["agreement"] is None:
        lines += ["int8: not compared with float32, because nothing was detected"]
    else:
        lines += [f"int8: agreement of its detections with float32 {values['agreement']:.3f} (1: equal)"]
    for kind, before in (values["ap_float32"] or {}).items():
        both = ["none" if value is None else f"{value:.4f}" for value in (before, values["ap_int8"][kind])]
        measured = counted(int(values["ap_images"]), "image")
        lines += [f"int8: {brief(kind)} AP {both[1]}, float32 {both[0]}, on {measured}"]
    return [*lines, f"int8: {values['seconds_int8']:.3f} s per image, float32 {values['seconds_float32']:.3f} s"]


def read_record(text: str | None, path: Path) -> ExportRecord:
    """The record that file `path` contains. ValueError if it has none, or one that cannot be used."""
    if not text:
        raise ValueError(f"{path} has no description by rcnn, so its classes and input are unknown: {EXPORT_AGAIN}")
    try:
        values = cast("dict[str, Any]", json.loads(text))
        if values["format"] > FORMAT:
            raise ValueError(f"it was written by rcnn {values['rcnn']}, this is {__version__}: upgrade rcnn")
        config = config_from_dict(values["config"])
        validate(config)
        if values["target"] not in get_args(Target):
            raise ValueError(f"expected target to be {', '.join(get_args(Target))}, got {values['target']!r}")
        size = values["size"]
        return ExportRecord(
            config=config,
            classes=tuple(str(name) for name in values["classes"]),
            target=values["target"],
            precision=values["precision"],
            batch=values["batch"],
            size=None if size is None else (int(size[0]), int(size[1])),
            least_size=(int(values["least_size"][0]), int(values["least_size"][1])),
            with_resize=bool(values["with_resize"]),
            inputs=tuple(values["inputs"]),
            outputs=tuple(values["outputs"]),
            provenance=values["provenance"],
            quantization=values["quantization"],
        )
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: its description cannot be read ({reason}): {EXPORT_AGAIN}") from error


def input_names(config: DetectorConfig) -> tuple[str, ...]:
    """The inputs of an exported file; models with rules in pixels of the original image also need its size."""
    legacy = config.legacy
    uses_file = (
        config.fcis is not None
        or config.rpn.legacy.min_size_original
        or legacy.boxes != "half_open"
        or legacy.drop_subpixel
        or clips_to_file(config.input)
    )
    return ("images", "sizes", "scales", "originals") if uses_file else ("images", "sizes")


def output_names(config: DetectorConfig) -> tuple[str, ...]:
    """The outputs of an exported file."""
    more = [name for name, has in (("masks", config.has_masks), ("keypoints", config.keypoint is not None)) if has]
    return ("boxes", "scores", "labels", "valid", *more)
