"""The predictor of a command, with or without test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from rcnn.predictor import Predictor


def predictor_from(
    checkpoint: Path,
    tta: str,
    flip: bool,
    *,
    device: str,
    precision: Literal["float32", "bfloat16", "auto"],
    padding: Literal["exact", "bucket"],
    overrides: Sequence[str] = (),
    allow: Sequence[str] = (),
    compile: bool = False,
) -> Predictor:
    """The predictor of a checkpoint, with KEY=VALUE `overrides`. ValueError if `tta` is not a list of sizes.

    With `compile`, each compilation is reported on stderr; ValueError if `tta` is given, too.
    """
    from rcnn.predictor import Predictor
    from rcnn.runtime.devices import choose_device
    from rcnn.runtime.processes import device_of_process, process_numbers
    from rcnn.tta import MAX_SIDE, AugmentedPredictor

    own = device_of_process(choose_device(device), process_numbers())
    if not tta:
        predictor = Predictor(
            checkpoint, device=own, precision=precision, padding=padding, overrides=overrides, allow=allow,
            compile=compile,
        )  # fmt: skip
        report_compilations(predictor)
        return predictor
    if compile:
        raise ValueError("--compile is not for test-time augmentation (--tta); leave one of them out")
    sides = tta.split(",") if tta != "own" else list[str]()
    if not all(side.strip().isdecimal() and 1 <= int(side) <= MAX_SIDE for side in sides):
        raise ValueError(
            f"--tta {tta}: expected shorter sides of 1 to {MAX_SIDE} pixels, e.g. 640,800,960, or `own` for the "
            "checkpoint's size"
        )
    return AugmentedPredictor(
        checkpoint,
        scales=tuple(int(side) for side in sides),
        flip=flip,
        device=own,
        precision=precision,
        padding=padding,
        overrides=overrides,
        allow=allow,
    )


def report_compilations(predictor: Predictor) -> None:
    """Print a line on stderr before and after each compilation of a compiled model."""
    from rcnn.runtime.compiled import CompiledDetector

    if isinstance(predictor.runner, CompiledDetector):
        predictor.runner.log = partial(typer.echo, err=True)
