"""The splits that are used if the user does not choose any, found by their names."""

from __future__ import annotations

from collections.abc import Sequence


def default_training_split(names: Sequence[str]) -> str:
    """The first split with a name that starts with "train", else the only split; empty if there is neither."""
    return next((name for name in names if name.startswith("train")), names[0] if len(names) == 1 else "")


def default_validation_split(names: Sequence[str], training: str = "") -> str:
    """The first split with a name that starts with "val" or "minival" and is not in `training`; empty if there is none.

    COCO 2014's minival is preferred to valminusminival, because papers train on the latter.
    """
    others = [name for name in names if name not in training.split("+")]
    named = [name for name in others if name.startswith(("val", "minival"))]
    return min(named, key=lambda name: name.startswith("valminus"), default="")
