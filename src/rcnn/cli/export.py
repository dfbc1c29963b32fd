"""`rcnn export`: a checkpoint as one file for onnxruntime, OpenVINO or torch.export."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from rcnn.arguments import MOST_EXPORTED
from rcnn.cli.options import Allow, Offline, settings_argument

Dynamic: TypeAlias = Literal["dynamic"]


class TargetOption(StrEnum):
    """Formats of exported files."""

    onnx = "onnx"
    torch = "torch"
    openvino = "openvino"


class ExportPrecisionOption(StrEnum):
    """Arithmetic of the network in an exported file."""

    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"
    int8 = "int8"


def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            help="Folder of a checkpoint or of a run (its best/ is used), or a name from `rcnn models weights`."
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        settings_argument("Settings of the model, e.g. box.score_threshold=0.3."),
    ] = None,
    to: Annotated[
        TargetOption | None, typer.Option(help="Format. Defaults to the format of --output's suffix, or onnx.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(help="File to write: .onnx, .pt2 (torch) or .xml (openvino). Defaults to runs/export-MODEL-N."),
    ] = None,
    size: Annotated[
        str,
        typer.Option(metavar="HxW", help="Padded height x width of the input, e.g. 800x1333; or dynamic: any size."),
    ] = "dynamic",
    batch: Annotated[str, typer.Option(metavar="N", help="Images per run; or dynamic: any number.")] = "dynamic",
    precision: Annotated[
        ExportPrecisionOption, typer.Option(help="Arithmetic of the network; boxes and scores stay float32.")
    ] = ExportPrecisionOption.float32,
    calibrate: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="For int8: a data set, or a folder of typical images, for the calibration."),
    ] = None,
    with_resize: Annotated[
        bool, typer.Option("--with-resize", help="The file takes one image of any size and resizes it approximately.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Data set: AP of checkpoint and file on its validation images is printed."),
    ] = None,
    allow: Allow = None,
    offline: Offline = False,
) -> None:
    """Write a checkpoint as one file that contains everything from pixels to detections.

    The file carries its config and class names: `rcnn predict FILE`, `rcnn eval FILE` and `rcnn.Predictor(FILE)` use it
    like a checkpoint. It is run once on a generated batch and compared with the checkpoint.

    Example: rcnn export runs/balloons --to onnx --output balloons.onnx
    """
    from rcnn.export.write import export_model
    from rcnn.new_outputs import output_or_new
    from rcnn.runtime.record import SUFFIXES

    target = None if to is None else to.value
    default = f"model{SUFFIXES[target or 'onnx']}"
    with output_or_new(output, "export", checkpoint) as path:
        written = export_model(
            checkpoint, path / default if output is None else path, to=target, size=parse_size(size),
            batch=parse_batch(batch), precision=precision.value, calibrate=calibrate,
            with_resize=with_resize, data=data,
            overrides=overrides or (), allow=allow or (), log=partial(typer.echo, err=True),
        )  # fmt: skip
    typer.echo("\n".join(written.lines()))


def parse_size(text: str) -> tuple[int, int] | Dynamic:
    """(height, width) of `HxW`, or "dynamic". ValueError for another text."""
    if text == "dynamic":
        return text
    match = re.fullmatch(r"(\d{1,5})[xX](\d{1,5})", text)
    if match is None:
        raise ValueError(f"--size {text}: expected height x width, e.g. 800x1333, or dynamic")
    return int(match[1]), int(match[2])


def parse_batch(text: str) -> int | Dynamic:
    """A number of images, or "dynamic". ValueError for another text."""
    if text == "dynamic":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= MOST_EXPORTED:
        raise ValueError(f"--batch {text}: expected a number of images from 1 to {MOST_EXPORTED:,}, or dynamic")
    return int(text)
