"""The exchange format of client and service: detections as JSON with lossless arrays."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from rcnn.arguments import ArgumentTypeError
from rcnn.ops.pasting import Pasting
from rcnn.results import ImageDetections

TOKEN = re.compile(r"[!-~]*")  # printable ASCII without spaces: what every HTTP client sends unchanged
ARRAYS = ("boxes", "scores", "labels", "box_masks", "keypoints")


def require_token(token: str) -> None:
    """Raise ValueError if `token` is not printable ASCII without spaces; the message does not show the token.

    Raises ArgumentTypeError if it is not a str.
    """
    if not isinstance(cast("object", token), str):
        raise ArgumentTypeError(f"the token is of type {type(token).__name__}; expected a str")
    if TOKEN.fullmatch(token) is None:
        place = next(index for index, letter in enumerate(token) if not TOKEN.fullmatch(letter))
        kinds = {"\n": "a line end", "\r": "a line end", " ": "a space"}
        kind = kinds.get(token[place], "a character that is not printable ASCII")
        raise ValueError(
            f"the token has {kind} at position {place + 1}; expected printable ASCII without spaces, and without the "
            "line end of a file that it is read from"
        )


def to_wire(found: ImageDetections) -> dict[str, Any]:
    """The fields of `found` as JSON values; arrays as {"dtype", "shape", "data": base64}."""
    arrays = {name: getattr(found, name) for name in ARRAYS}
    return {
        "height": found.height,
        "width": found.width,
        "classes": list(found.classes),
        "skeleton": [list(pair) for pair in found.skeleton],
        "pasting": vars(found.pasting),
        **{name: None if value is None else _encode(value) for name, value in arrays.items()},
    }


def from_wire(values: Mapping[str, Any]) -> ImageDetections:
    """The inverse of `to_wire`. Raises ValueError for values in another format."""
    try:
        return ImageDetections(
            height=values["height"],
            width=values["width"],
            classes=tuple(values["classes"]),
            skeleton=tuple((int(a), int(b)) for a, b in values["skeleton"]),
            pasting=Pasting(**values["pasting"]),
            boxes=_decode(values["boxes"]),
            scores=_decode(values["scores"]),
            labels=_decode(values["labels"]),
            box_masks=None if values["box_masks"] is None else _decode(values["box_masks"]),
            keypoints=None if values["keypoints"] is None else _decode(values["keypoints"]),
        )
    except (KeyError, TypeError, ValueError) as error:  # ValueError: also of base64, and of a wrong shape
        raise ValueError(
            f"the answer is not from an rcnn service of this version ({error!r}); use the same version of rcnn for "
            "client and service"
        ) from error


def _encode(array: npt.NDArray[Any]) -> dict[str, Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return {"dtype": str(array.dtype), "shape": list(array.shape), "data": data}


def _decode(value: Mapping[str, Any]) -> npt.NDArray[Any]:
    if value["dtype"] not in ("float32", "int64"):
        raise ValueError(f"the answer has an array of type {value['dtype']}; expected float32 or int64")
    return np.frombuffer(base64.b64decode(value["data"]), dtype=value["dtype"]).reshape(value["shape"]).copy()
