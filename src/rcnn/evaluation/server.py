"""Results on a split without ground truth, in the files that COCO's evaluation server takes.

https://cocodataset.org/#upload: `detections_[testset]_[alg]_results.json`, for keypoints
`person_keypoints_[testset]_[alg]_results.json`, each alone in a zip file of the same name.
"""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from rcnn.data.images import MAX_PIXELS
from rcnn.data.messages import counted, few
from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import Detect, ImageResults, predict_dataset
from rcnn.evaluation.folder import remove_unfinished, results_as_they_come
from rcnn.evaluation.plan import measured_kinds
from rcnn.metrics.coco import FIELDS
from rcnn.outputs import OutputFolder
from rcnn.predictor import Predictor
from rcnn.runtime.processes import ALONE, Processes

PREFIX = {"bbox": "detections", "segm": "detections", "keypoints": "person_keypoints"}


def server_files(predictor: Predictor, split: str) -> dict[str, str]:
    """The name of the results file of each kind, without suffix.

    The kind is a part of the algorithm's name, because the files of boxes and masks have the same prefix. A list of
    images, e.g. lists/ids.txt, stands there by its stem.
    """
    algorithm = re.sub(r"[^A-Za-z0-9-]+", "-", predictor.config.name)
    parts = [Path(part).stem if part.endswith(".txt") else part for part in split.split("+")]
    split = re.sub(r"[^\w.+-]+", "-", "+".join(parts))
    kinds = [kind for kind in measured_kinds(predictor.config) if kind in PREFIX]
    return {kind: f"{PREFIX[kind]}_{split}_{algorithm}-{kind}_results" for kind in kinds}


def require_categories(predictor: Predictor, dataset: Dataset) -> None:
    """Raise ValueError if the detections of a model have no category id: proposals, or none of its classes is known."""
    if predictor.config.proposals_only:
        raise ValueError(f"{predictor.config.name} predicts proposals without classes; results files need a detector")
    if len(dataset.missing_classes) == len(dataset.classes):
        raise ValueError(
            f"{dataset.annotation_file} has none of the classes of the model, {few(dataset.classes)}; rename its "
            "categories, or use a model that was trained on these classes"
        )


def predict_split(
    predictor: Predictor,
    dataset: Dataset,
    folder: OutputFolder | None,
    *,
    scores: Sequence[float] = (),
    batch_size: int = 1,
    workers: int = 2,
    detect: Detect | None = None,
    max_pixels: int = MAX_PIXELS,
    on_image: Callable[[ImageResults], object] | None = None,
    processes: Processes = ALONE,
) -> tuple[list[Path], list[ImageResults]]:
    """Predict on every image of `dataset`, and write the results files; returns their paths and the failed images.

    `detect` and `max_pixels` as in `predict_dataset`. `scores` (K,): detections of a class with a lower score are
    skipped; by default none. Detections of classes that the data set does not have are skipped too, because they have
    no category id. While it runs, the results so far are in results.jsonl. The `processes` share the images; only the
    first one has a `folder`, and the others return empty lists. Raises ValueError for a model that only predicts
    proposals or has no class of the data set, or if no image can be read; FileExistsError for a file that rcnn did not
    write.
    """
    require_categories(predictor, dataset)
    names = server_files(predictor, dataset.split)
    predicted = partial(
        predict_dataset, predictor, dataset, batch_size=batch_size, workers=workers, detect=detect,
        max_pixels=max_pixels, processes=processes,
    )  # fmt: skip
    if folder is None:
        predicted()
        return [], []
    lowest = dict(zip(dataset.category_ids, scores or [0.0] * len(dataset.classes), strict=True))
    for category, name in zip(dataset.category_ids, dataset.classes, strict=True):
        if name in dataset.missing_classes:
            lowest[category] = math.inf

    def kept(image: ImageResults) -> ImageResults:
        results = tuple(one for one in image.results if one["score"] >= lowest[one["category_id"]])
        return replace(image, results=results)

    files = [f"{name}.{suffix}" for name in names.values() for suffix in ("json", "zip")]
    with results_as_they_come(folder, files) as keep:

        def keep_image(image: ImageResults) -> None:
            keep(kept(image))
            if on_image is not None:
                on_image(image)

        images = predicted(on_image=keep_image)
        if images and all(image.error for image in images):
            first = images[0].error
            raise ValueError(f"none of {counted(len(images), 'image')} could be predicted on; the first: {first}")
    results = [result for image in images for result in kept(image).results]
    written: list[Path] = []
    for kind, name in names.items():
        fields = ("image_id", "category_id", "score", FIELDS[kind])
        text = json.dumps([{field: result[field] for field in fields} for result in results])
        written.append(folder.write_text(f"{name}.json", text))
        with folder.writing(f"{name}.zip") as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.json", text)
        written.append(folder.path / f"{name}.zip")
    remove_unfinished(folder)
    return written, [image for image in images if image.error]
