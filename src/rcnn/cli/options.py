"""Options that several commands share, each with its name, type and help."""

from __future__ import annotations

import os
from enum import StrEnum
from typing import Annotated, Any

import typer

from rcnn.cli.early import warn_of_repeats


class Precision(StrEnum):
    """Arithmetic of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    auto = "auto"


class Padding(StrEnum):
    """Shape of the network's input."""

    exact = "exact"
    bucket = "bucket"


class MetricOption(StrEnum):
    """Definitions of average precision."""

    coco = "coco"
    voc2007 = "voc2007"
    voc2012 = "voc2012"
    lvis = "lvis"


PrecisionOption = Annotated[
    Precision, typer.Option("--precision", help="auto: bfloat16 if the hardware has instructions for it.")
]
PaddingOption = Annotated[
    Padding,
    typer.Option(
        "--padding", help="exact: as in the checkpoint's framework; bucket: a few fixed shapes, which is faster."
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Compile the model with torch.compile: minutes for each new image shape, so use it with --padding bucket. "
        "For GPUs; on CPUs it is slower.",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or mps; auto: a GPU if there is one.")]
Annotations = Annotated[
    str, typer.Option(help="Annotation file within --data, e.g. labels/{split}.json. Defaults to the usual names.")
]
Images = Annotated[
    str,
    typer.Option(
        help="Folder of the images, relative to the data set or to the current folder. Defaults to the usual folders "
        "beside the annotations. For the formats COCO, LVIS and VIA."
    ),
]
RelativeBoxes = Annotated[
    bool, typer.Option("--relative-boxes", help="Boxes are fractions of the image (0 to 1). For COCO and LVIS.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse annotation files with errors instead of repairing or skipping these.")
]
AllowEmpty = Annotated[bool, typer.Option("--allow-empty", help="Accept a split without objects.")]
Allow = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="FACTORY",
        help="Your own code that the checkpoint names and may run, e.g. my_backbone.py:make_backbone.",
    ),
]


def settings_argument(description: str, form: str = "KEY.SUB=VALUE") -> Any:
    """The argument of a command for settings; `description` is its help, `form` the form of each."""
    return typer.Argument(metavar=form, help=description, callback=warn_of_repeats)


def _go_offline(offline: bool) -> None:
    if offline:
        os.environ["RCNN_OFFLINE"] = "1"  # for this process


Offline = Annotated[
    bool,
    typer.Option(
        "--offline",
        callback=_go_offline,
        expose_value=False,
        help="Do not download weights; use only those in the cache (also: RCNN_OFFLINE=1).",
    ),
]
TTA = Annotated[
    str,
    typer.Option(
        help="Test-time augmentation: shorter sides in pixels, e.g. 640,800,960, or `own` for the checkpoint's size; "
        "each image is also flipped. Slower, but more accurate.",
    ),
]
TTAFlip = Annotated[bool, typer.Option("--tta-flip/--no-tta-flip", help="With --tta, also predict on flipped images.")]
