"""The record in an exported file: config, class names, inputs and outputs. It is stored as JSON inside the file.

ONNX: the metadata entry `rcnn`; torch.export: the extra file `rcnn.json`; OpenVINO: the runtime info `rcnn`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from rcnn import __version__
from rcnn.arguments import is_one_of, is_whole_number, shown
from rcnn.data.messages import brief, counted, few
from rcnn.models import DetectorConfig
from rcnn.models.legacy.file_boxes import clips_to_file
from rcnn.models.overrides import config_from_dict, config_to_dict
from rcnn.models.validate import validate
from rcnn.runtime.checksum import UNSEALED

FORMAT = 1  # increased when older versions of rcnn cannot read what this version writes
INPUTS = ("images", "sizes", "scales", "originals")  # the first two in all files
OUTPUTS = ("boxes", "scores", "labels", "valid", "masks", "keypoints")  # the first four in all files
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
        values["checksum"] = UNSEALED
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


class NewerFormat(Exception):
    """A description in a format that this version of rcnn does not read."""


def read_record(text: str | None, path: Path) -> ExportRecord:
    """The record that file `path` contains. ValueError if it has none, or one that cannot be used."""
    if not text:
        raise ValueError(f"{path} has no description by rcnn, so its classes and input are unknown: {EXPORT_AGAIN}")
    try:
        values = _table(json.loads(text))
        if not is_whole_number(values["format"]) or values["format"] < 1:
            raise ValueError(f"expected format to be a whole number from 1, got {shown(values['format'], 60)}")
        if values["format"] > FORMAT:
            raise NewerFormat(f"was written by rcnn {shown(values.get('rcnn'), 40, str)} in format {values['format']}")
        config = config_from_dict(values["config"])
        validate(config)
        _require_forms(values)
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
    except NewerFormat as error:
        raise ValueError(
            f"{path} {error}; this is rcnn {__version__}, which reads formats up to {FORMAT}: upgrade rcnn, or "
            f"{EXPORT_AGAIN}"
        ) from error
    except (ValueError, KeyError, TypeError, IndexError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path}: its description cannot be read ({reason}): {EXPORT_AGAIN}") from error


def _table(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {shown(value, 60)}")
    return cast("dict[str, Any]", value)


def _require_forms(values: Mapping[str, Any]) -> None:
    """Raise ValueError for a value that `ExportRecord.text` does not write."""
    size, pair = values["size"], "two whole numbers from 1"
    for name, fits, expected in (
        ("target", is_one_of(values["target"], get_args(Target)), ", ".join(get_args(Target))),
        ("precision", is_one_of(values["precision"], get_args(ExportPrecision)), ", ".join(get_args(ExportPrecision))),
        ("batch", values["batch"] is None or _is_count(values["batch"]), "null or a whole number from 1"),
        ("size", size is None or _is_pair(size), f"null or {pair}"),
        ("least_size", _is_pair(values["least_size"]), pair),
        ("with_resize", isinstance(values["with_resize"], bool), "true or false"),
        ("classes", isinstance(values["classes"], list), "a list of names"),
        ("inputs", _are_names(values["inputs"], INPUTS, INPUTS[:2]), f"a list of {', '.join(INPUTS)}"),
        ("outputs", _are_names(values["outputs"], OUTPUTS, OUTPUTS[:4]), f"a list of {', '.join(OUTPUTS)}"),
        ("provenance", isinstance(values["provenance"], dict), "an object"),
        ("quantization", isinstance(values["quantization"], dict), "an object"),
    ):
        if not fits:
            raise ValueError(f"expected {name} to be {expected}, got {shown(values[name], 60)}")


def _is_count(value: object) -> bool:
    return is_whole_number(value) and cast("int", value) >= 1


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, cast("list[object]", value)))


def _are_names(value: object, known: Sequence[str], needed: Sequence[str]) -> bool:
    """Whether `value` is a list of `known` names, each once, with all that are `needed`."""
    names = cast("list[object]", value) if isinstance(value, list) else []
    return all(names.count(name) == 1 for name in names) and {*needed} <= {*map(str, names)} <= {*known}


def require_graph(
    record: ExportRecord, path: Path, inputs: Mapping[str, Sequence[int | None]], outputs: Collection[str]
) -> None:
    """Raise ValueError unless the graph in file `path` is the one that `record` describes.

    `inputs`: shapes by name, None for a dimension of any size; `outputs`: names.
    """
    names = ("image",) if record.with_resize else record.inputs
    described, found = {"inputs": {*names}, "outputs": {*record.outputs}}, {"inputs": {*inputs}, "outputs": {*outputs}}
    for kind, expected in described.items():
        if expected != found[kind]:
            raise ValueError(
                f"{path}: its description has the {kind} {few(sorted(expected))}, but its graph has "
                f"{few(sorted(found[kind])) or 'none'}: {EXPORT_AGAIN}"
            )
    expected_shape = (record.batch, 3, *(record.size or (None, None)))
    shape = inputs[names[0]]
    if len(shape) != 4 or any(
        side is not None and side != own for side, own in zip(shape, expected_shape, strict=True)
    ):
        sides = [" x ".join("any" if side is None else str(side) for side in one) for one in (expected_shape, shape)]
        raise ValueError(
            f"{path}: its description has images of {sides[0]} (images x channels x height x width), but its graph has "
            f"{sides[1]}: {EXPORT_AGAIN}"
        )


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
