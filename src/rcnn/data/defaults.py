"""The splits that are used if the user does not choose any, found by their names."""

from __future__ import annotations

from collections.abc import Sequence

TRAINING = ("train",)  # starts of the names of splits, in any case
VALIDATION = ("val", "minival")
TEST = ("test",)


def is_training_split(name: str) -> bool:
    """Whether a split is for training, by its name."""
    return name.lower().startswith(TRAINING)


def is_validation_split(name: str) -> bool:
    """Whether a split is for validation, by its name."""
    return name.lower().startswith(VALIDATION)


def is_named_as_test(name: str) -> bool:
    """Whether a split is for tests, by its name: its images may have no public ground truth."""
    return name.lower().startswith(TEST)


def default_training_split(names: Sequence[str]) -> str:
    """The first split with a name that starts with "train", else the only split; empty if there is neither."""
    return next(filter(is_training_split, names), names[0] if len(names) == 1 else "")


def default_validation_split(names: Sequence[str], training: str = "") -> str:
    """The first split with a name that starts with "val" or "minival" and is not in `training`; empty if there is none.

    COCO 2014's minival is preferred to valminusminival, because papers train on the latter.
    """
    others = [name for name in names if name not in training.split("+")]
    named = filter(is_validation_split, others)
    return min(named, key=lambda name: name.lower().startswith("valminus"), default="")
