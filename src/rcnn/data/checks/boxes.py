"""Boxes and areas: numbers that are finite, in COCO's form, and in agreement with the outlines.

COCO's form is [x, y, width, height] in pixels of the original image. A box that cannot be used is taken from the
outline of its object.

Letters: A annotations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from rcnn.data.checks.numbers import number_rows, numbers
from rcnn.data.checks.outlines import Outline, fractions, outline_areas, outline_boxes
from rcnn.data.checks.tables import Id
from rcnn.data.messages import Warnings

UNPROVEN = "must then be converted"  # end of the message on boxes of another form that no outline proves
CONTRADICTS, AGREES = 0.5, 0.9  # IoU of a box and the box around its outline: they contradict below, agree above
MIN_AGREEING_FRACTION = 0.9  # of boxes that agree with their outlines in another form, to convert all boxes to it
MIN_BEYOND_FRACTION = 0.5  # of boxes that reach beyond their images, to suspect another form
# The same for boxes in fractions of the image, which may be in YOLO's form: boxes in that form never reach beyond it.
MIN_CENTRED_FRACTION = 0.1
TINY = 1.0  # pixel; a smaller box between 0 and 1 may be in fractions of its image
LARGEST_AREA = 1e10  # square pixels; COCO's metrics leave out larger objects
OVER_EDGE = 1.0  # pixels that a box may reach beyond its image, as rounding causes in most files
FORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # other tools' forms -> x, y, width, height
    "x1, y1, x2, y2": lambda b: np.concatenate([b[:, :2], b[:, 2:] - b[:, :2]], axis=1),
    "centre x, centre y, width, height": lambda b: np.concatenate([b[:, :2] - b[:, 2:] / 2, b[:, 2:]], axis=1),
    "y1, x1, y2, x2": lambda b: np.stack([b[:, 1], b[:, 0], b[:, 3] - b[:, 1], b[:, 2] - b[:, 0]], axis=1),
}


def check_boxes(
    values: Sequence[object],
    outlines: Sequence[Outline],
    sizes: np.ndarray,
    limits: np.ndarray,
    ids: Sequence[Id],
    warnings: Warnings,
    *,
    relative: bool = False,
) -> tuple[np.ndarray, bool]:
    """The boxes (A, 4) float64 x, y, width, height; NaN for an object with neither box nor outline.

    Also returns whether they were fractions of the image in the file: because `relative` says so, or because all values
    are between 0 and 1. `sizes` (A, 2) int64 are height and width of the images, `limits` (A,) the largest coordinates
    that are accepted.
    """
    every = np.asarray(ids, dtype=object)
    boxes, text = number_rows(values, 4)
    warnings.add("a bbox with numbers that are text", "read as numbers", every[text].tolist(), kind="text-number")
    absent = np.array([value is None or value == [] for value in values], dtype=bool)
    plausible = (np.abs(boxes) <= limits[:, None]).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)  # False for NaN
    boxes[~plausible] = np.nan
    around = outline_boxes(outlines)
    given, relative = relative, relative or (bool(plausible.any()) and fractions(boxes[plausible]))
    if relative:
        boxes *= np.tile(sizes[:, ::-1], 2)
    else:
        warnings.add(
            f"a bbox from 0 to 1, of under {TINY:g} pixel, unlike the others: probably in fractions of the image",
            "used as pixels; multiply it by the width and height of its image",
            every[plausible & _within_first_pixel(boxes)].tolist(),
            kind="relative-coordinates",
        )
    if relative and not given:
        warnings.add(
            "a bbox in fractions of the image",
            "multiplied by its width and height",
            every[plausible].tolist(),
            kind="relative-coordinates",
        )
    boxes = _in_coco_form(boxes, around, sizes, every, warnings, relative=relative)
    unusable = ~plausible | (boxes[:, 2:] < 0).any(axis=1)
    wrong = unusable & ~absent
    boxes[unusable] = around[unusable]
    lost = unusable & np.isnan(boxes).any(axis=1)
    what = "a bbox that is not 4 finite numbers (x, y, width, height), with a width and height of 0 or more"
    warnings.add(what, "the box around the outline is used", every[wrong & ~lost].tolist(), kind="bad-box")
    warnings.add(what + ", and no outline", "skipped", every[wrong & lost].tolist(), kind="bad-box")
    warnings.add(
        "no bbox and no segmentation that can be used", "skipped", every[absent & lost].tolist(), kind="no-box"
    )
    return boxes, relative


def check_areas(
    values: Sequence[object],
    boxes: np.ndarray,
    outlines: Sequence[Outline],
    ids: Sequence[Id],
    warnings: Warnings,
) -> np.ndarray:
    """The areas (A,) float64 pixels: those of the file, else of the outline, else of the box."""
    areas = numbers(values)
    usable = (areas >= 0) & (areas <= LARGEST_AREA)  # false for NaN
    wrong = [
        one for one, value, good in zip(ids, values, usable.tolist(), strict=True) if not good and value is not None
    ]
    text = [one for one, value, good in zip(ids, values, usable.tolist(), strict=True) if good and type(value) is str]
    warnings.add("an area that is text", "read as a number", text, kind="text-number")
    warnings.add(
        "an area that is not a number from 0 to 1e10, the largest that COCO counts",
        "computed from the object",
        wrong,
        kind="bad-area",
    )
    places = np.flatnonzero(~usable)
    computed = outline_areas([outlines[place] for place in places.tolist()])
    areas[places] = np.where(np.isnan(computed), boxes[places, 2] * boxes[places, 3], computed)
    return areas


def _within_first_pixel(boxes: np.ndarray) -> np.ndarray:
    """Which boxes (A, 4) x, y, width, height have only numbers from 0 to 1, and sides up to TINY: (A,) bool."""
    sides = boxes[:, 2:]
    inside = np.all((boxes >= 0) & (boxes <= 1), axis=1)
    return np.logical_and(inside, np.all((sides > 0) & (sides < TINY), axis=1))


def _in_coco_form(
    boxes: np.ndarray, around: np.ndarray, sizes: np.ndarray, ids: np.ndarray, warnings: Warnings, *, relative: bool
) -> np.ndarray:
    """The boxes, converted if the boxes `around` outlines (A, 4; NaN: none) show that the file has another form."""
    known = np.flatnonzero(np.isfinite(boxes).all(axis=1) & np.isfinite(around).all(axis=1))
    if not len(known):
        _warn_of_form(boxes, sizes, ids, warnings, relative=relative)
        return boxes
    agreement = box_agreement(boxes[known], around[known])
    for form, convert in FORMS.items():
        agrees = (box_agreement(convert(boxes[known]), around[known]) > AGREES).mean()
        if agrees >= MIN_AGREEING_FRACTION and agrees > (agreement > AGREES).mean():
            warnings.add(
                "a bbox that contradicts its outline as [x, y, width, height]",
                f"all boxes are read as [{form}], which agrees with the outlines",
                ids[known[agreement <= AGREES]].tolist(),
                kind="box-form",
            )
            return convert(boxes)
    warnings.add(
        f"a bbox that contradicts its outline (IoU below {CONTRADICTS})",
        "used as it is written",
        ids[known[agreement < CONTRADICTS]].tolist(),
        kind="box-contradicts-outline",
    )
    return boxes


def _warn_of_form(boxes: np.ndarray, sizes: np.ndarray, ids: np.ndarray, warnings: Warnings, *, relative: bool) -> None:
    """Warn if many boxes reach beyond their images, and none do in another form: the only sign without outlines.

    Boxes that were fractions (`relative`) are also compared with YOLO's form, which has the centre first.
    """
    given = np.flatnonzero(np.isfinite(boxes).all(axis=1))
    written, limits = boxes[given], sizes[given, ::-1] + OVER_EDGE
    beyond = (written[:, :2] + written[:, 2:] > limits).any(axis=1)
    corners = (written[:, 2:] > written[:, :2]).all(axis=1) & (written[:, 2:] <= limits).all(axis=1)
    half = written[:, 2:] / 2
    centred = (written[:, :2] - half >= -OVER_EDGE).all() and (written[:, :2] + half <= limits).all()
    form = ""
    if len(given) and beyond.mean() >= MIN_BEYOND_FRACTION and corners.all():
        form = "[x1, y1, x2, y2]"
    elif len(given) and relative and beyond.mean() >= MIN_CENTRED_FRACTION and centred:
        form = "centre boxes [cx, cy, width, height] (YOLO's form)"
    if form:
        warnings.add(
            "a bbox that reaches beyond its image as [x, y, width, height]",
            f"used as it is written; the boxes are probably {form} and {UNPROVEN}",
            ids[given[beyond]].tolist(),
            kind="box-form",
        )


def box_agreement(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """How well boxes x, y, width, height (A, 4) agree, one by one: (A,) intersection over union.

    It is 1 for boxes that differ by up to a pixel in each number: rounding can be large compared with a thin object.
    """
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    intersection = np.clip(high - low, 0, None).prod(axis=1)
    union = np.clip(a[:, 2:], 0, None).prod(axis=1) + b[:, 2:].prod(axis=1) - intersection
    same = (np.abs(a - b) <= 1).all(axis=1)
    return np.where(same, 1.0, intersection / np.maximum(union, np.finfo(np.float64).tiny))
