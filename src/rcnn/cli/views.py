"""The predictor that a command wants: one look at each image, or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rcnn.predictor import Predictor

TTA = Annotated[
    str,
    typer.Option(
        help="Look at each image several times: shorter sides in pixels, as 640,800,960, or `own` for the "
        "checkpoint's size; each mirrored too. Slower, more exact.",
    ),
]
TTAFlip = Annotated[bool, typer.Option("--tta-flip/--no-tta-flip", help="With --tta, also look at mirror images.")]


def predictor_from(checkpoint: Path, tta: str, flip: bool, **settings: Any) -> Predictor:
    """The predictor of a checkpoint; with `tta` one that looks at several sizes. ValueError for what is no size."""
    from rcnn.predictor import Predictor
    from rcnn.tta import AugmentedPredictor

    if not tta:
        return Predictor.from_checkpoint(checkpoint, **settings)
    words = [] if tta == "own" else tta.split(",")
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"--tta {tta}: want shorter sides in pixels, as 640,800,960, or own")
    return AugmentedPredictor.from_checkpoint(
        checkpoint, scales=tuple(int(word) for word in words), flip=flip, **settings
    )
