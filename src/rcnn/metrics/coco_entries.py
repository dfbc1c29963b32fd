"""The ground truth and the results of one kind of metric (boxes, masks, keypoints, proposals), as hotcoco reads them.

Images and annotations are numbered from 1, because COCO's code needs integer ids and misreads id 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np
import numpy.typing as npt

from rcnn.data.messages import counted, few
from rcnn.metrics.inputs import Entry, EvaluationInputs, GroundTruth, box_outline, outline_of, require_outlines
from rcnn.metrics.values import FIELDS
from rcnn.models.config import COCO_SIGMAS
from rcnn.ops.coco_backend import Rle, rle_areas

ONE_CLASS: Entry = {"id": 1, "name": "object"}  # of proposals


def ground_truth_of_kind(inputs: EvaluationInputs, kind: str) -> GroundTruth:
    """The content of a COCO file with the ground truth of one kind.

    Images and annotations are numbered from 1, because COCO's code misreads id 0. An object without an outline is a
    crowd for "segm". Raises ValueError if no object has an outline ("segm") or keypoints ("keypoints").
    """
    data, images = inputs.data, inputs.numbered_images()
    annotations: list[Entry] = []
    without = 0  # objects without an outline
    # COCO's code needs keypoints in every object; an object without keypoints gets invisible ones
    keypoint_values = max((len(annotation.get("keypoints") or ()) for annotation in data["annotations"]), default=0)
    for annotation, crowd in inputs.annotations:
        entry = inputs.numbered_annotation(annotation, len(annotations) + 1) | {"iscrowd": crowd}
        if kind == "segm":
            entry["segmentation"] = outline = outline_of(annotation)
            if outline is None:
                # its box becomes a crowd: it is no false negative, and a detection of it is no false positive
                entry |= {"iscrowd": 1, "segmentation": box_outline(annotation)}
                without += 1
        elif kind == "keypoints":
            points = annotation.get("keypoints") or [0] * keypoint_values
            visible = sum(1 for visibility in points[2::3] if visibility > 0)
            entry |= {"keypoints": points, "num_keypoints": annotation.get("num_keypoints", visible)}
        annotations.append(entry)
    if kind == "segm":
        require_outlines(inputs.source, len(annotations), without)
    if kind == "keypoints" and annotations and not keypoint_values:
        raise ValueError(
            f"{inputs.source} has no keypoints in any annotation; use the person_keypoints file of the split"
        )
    if kind == "proposals":
        annotations = [{**entry, "category_id": ONE_CLASS["id"]} for entry in annotations]
        return {"images": images, "annotations": annotations, "categories": [ONE_CLASS]}
    return {"images": images, "annotations": annotations, "categories": data["categories"]}


def require_same_keypoints(inputs: EvaluationInputs, sigmas: Sequence[float] | None) -> None:
    """Raise ValueError unless all objects and sigmas have the same number of keypoints.

    With different numbers, COCO's code computes wrong values without a message.
    """
    counts = {len(annotation.get("keypoints") or ()) // 3 for annotation, _ in inputs.annotations} - {0}
    if len(counts) > 1:
        raise ValueError(
            f"{inputs.source} has objects with {few(sorted(counts))} keypoints; expected the same number in all"
        )
    for count in counts:
        expected = len(COCO_SIGMAS) if sigmas is None else len(sigmas)
        if count != expected:
            raise ValueError(
                f"{inputs.source} has objects with {counted(count, 'keypoint')}, but keypoint_sigmas are "
                f"{'those of COCO for ' if sigmas is None else ''}{expected}; give one sigma per keypoint"
            )


def require_same_keypoints_in_results(inputs: EvaluationInputs, results: Sequence[Entry]) -> None:
    """Raise ValueError unless the results have as many keypoints as the objects."""
    expected = inputs.keypoint_count
    for result in results:
        found = len(result["keypoints"]) // 3
        if expected not in (0, found):
            raise ValueError(
                f"a result (image {result['image_id']!r}) has {counted(found, 'keypoint')}, but objects in "
                f"{inputs.source} have {expected}; evaluate against the data set that the model was trained for"
            )


def results_of_kind(inputs: EvaluationInputs, results: Sequence[Entry], kind: str) -> list[Entry]:
    """The `results` with the one field that `kind` measures; images have the numbers of `inputs`."""
    return [
        {
            "image_id": inputs.image_numbers[result["image_id"]],
            "category_id": ONE_CLASS["id"] if kind == "proposals" else result["category_id"],
            "score": result["score"],
            FIELDS[kind]: result[FIELDS[kind]],
        }
        for result in results
    ]


def number_columns(inputs: EvaluationInputs, results: Sequence[Entry]) -> npt.NDArray[np.float64]:
    """(N, 3): number of the image, score and category id of N results, which all kinds share."""
    columns = np.empty((len(results), 3))
    columns[:, 0] = [inputs.image_numbers[result["image_id"]] for result in results]
    columns[:, 1] = [result["score"] for result in results]
    columns[:, 2] = [result["category_id"] for result in results]
    return columns


def hotcoco_results(
    inputs: EvaluationInputs, results: Sequence[Entry], columns: npt.NDArray[np.float64], kind: str
) -> tuple[list[Entry] | npt.NDArray[np.float64], list[Rle | list[list[float]]] | None]:
    """The N results of one kind as hotcoco reads them fastest, and the masks of "segm"; `columns`: `number_columns`.

    Boxes and run lengths are a table (N, 7): number of the image, x, y, width, height in pixels, score, category id.
    hotcoco, like COCO's code, takes the area of a result from its box; so a mask has a box of its own area there.
    Keypoints and polygons are entries of COCO's results format.
    """
    masks: list[Rle | list[list[float]]] | None = None
    rles: list[Rle] = []
    if kind == "segm":
        masks = [result["segmentation"] for result in results]
        rles = [mask for mask in masks if isinstance(mask, dict)]
    if kind == "keypoints" or len(rles) < len(masks or ()):  # keypoints, or a polygon among the masks
        return results_of_kind(inputs, results, kind), None
    table = np.zeros((len(results), 7))
    table[:, [0, 5, 6]] = columns
    if kind == "proposals":
        table[:, 6] = ONE_CLASS["id"]
    if masks is None:
        numbers = chain.from_iterable(result["bbox"] for result in results)
        table[:, 1:5] = np.fromiter(numbers, np.float64, 4 * len(results)).reshape(-1, 4)
    else:
        table[:, 3], table[:, 4] = rle_areas(rles), 1
    return table, masks
