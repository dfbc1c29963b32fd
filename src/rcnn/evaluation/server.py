"""Results on a split without ground truth, in the files that COCO's evaluation server takes.

https://cocodataset.org/#upload: `detections_[testset]_[alg]_results.json`, for keypoints
`person_keypoints_[testset]_[alg]_results.json`, each alone in a zip file of the same name.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rcnn.data.records import Dataset
from rcnn.evaluation.evaluate import ImageResults, predict_dataset
from rcnn.evaluation.folder import UNFINISHED, results_as_they_come
from rcnn.evaluation.plan import measured_kinds
from rcnn.metrics.coco import FIELDS
from rcnn.outputs import OutputFolder
from rcnn.predictor import Predictor
from rcnn.runtime.processes import ALONE, Processes

PREFIX = {"bbox": "detections", "segm": "detections", "keypoints": "person_keypoints"}


def server_files(predictor: Predictor, split: str) -> dict[str, str]:
    """The name of the results file of each kind, without suffix.

    The kind is a part of the algorithm's name, because the files of boxes and masks have the same prefix.
    """
    algorithm = re.sub(r"[^A-Za-z0-9-]+", "-", predictor.config.name)
    kinds = [kind for kind in measured_kinds(predictor.config) if kind in PREFIX]
    return {kind: f"{PREFIX[kind]}_{split}_{algorithm}-{kind}_results" for kind in kinds}


def predict_split(
    predictor: Predictor,
    dataset: Dataset,
    folder: OutputFolder | None,
    *,
    scores: Sequence[float] = (),
    batch_size: int = 1,
    workers: int = 2,
    on_image: Callable[[ImageResults], object] | None = None,
    processes: Processes = ALONE,
) -> tuple[list[Path], list[ImageResults]]:
    """Predict on every image of `dataset`, and write the results files; returns these, and the images that failed.

    `scores` (K,): detections of a class with a lower score are skipped; defaults to none. While
    it runs, all results so far are in results.jsonl. The
    `processes` share the images; only the first one has a `folder`, and returns anything. Raises ValueError for a model
    of proposals only, FileExistsError for a file that rcnn did not write.
    """
    if predictor.config.proposals_only:
        raise ValueError(f"{predictor.config.name} predicts proposals without classes; results files need a detector")
    names = server_files(predictor, dataset.split)
    predicted = partial(
        predict_dataset, predictor, dataset, batch_size=batch_size, workers=workers, processes=processes
    )
    if folder is None:
        predicted()
        return [], []
    files = [f"{name}.{suffix}" for name in names.values() for suffix in ("json", "zip")]
    with results_as_they_come(folder, files) as keep:

        def keep_image(image: ImageResults) -> None:
            keep(image)
            if on_image is not None:
                on_image(image)

        images = predicted(on_image=keep_image)
    lowest = dict(zip(dataset.category_ids, scores, strict=True)) if scores else {}
    results = [
        result
        for image in images
        for result in image.results
        if result["score"] >= lowest.get(result["category_id"], 0.0)
    ]
    written: list[Path] = []
    for kind, name in names.items():
        fields = ("image_id", "category_id", "score", FIELDS[kind])
        text = json.dumps([{field: result[field] for field in fields} for result in results])
        written.append(folder.write_text(f"{name}.json", text))
        with folder.writing(f"{name}.zip") as path, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{name}.json", text)
        written.append(folder.path / f"{name}.zip")
    (folder.path / UNFINISHED).unlink()
    return written, [image for image in images if image.error]
