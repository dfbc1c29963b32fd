"""`rcnn data browse`: a page with the annotated images of a data set, to check its annotations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from rcnn.arguments import OUTPUT, SPLIT, as_path, as_text, whole_number
from rcnn.data.defaults import default_training_split
from rcnn.data.images import ImageError
from rcnn.data.inspect.check import is_test_split
from rcnn.data.loading import Batches, LoaderSettings
from rcnn.data.messages import counted, few
from rcnn.data.opening import open_dataset, splits
from rcnn.data.output_place import output_warnings, require_output_apart
from rcnn.data.records import Dataset, ImageRecord
from rcnn.data.skeletons import skeleton_of
from rcnn.drawing.augmented import augmented_batches, augmented_sample, draw_augmented, with_steps
from rcnn.drawing.embedding import Figure, embedded
from rcnn.drawing.ground_truth import draw_ground_truth
from rcnn.drawing.pages import render
from rcnn.drawing.pictures import PERSON_SKELETON
from rcnn.given_steps import Given
from rcnn.new_outputs import output_or_new
from rcnn.outputs import OutputFolder, require_folder
from rcnn.preprocess import InputConfig
from rcnn.progress import Progress, no_progress

PAGE = "browse.html"
MAX_EXPRESSIONS = 12  # shown per image
VERSIONS = 2  # pictures of each image with augmentation


@dataclass(frozen=True, kw_only=True)
class BrowsePage:
    """The page that `browse_dataset` wrote."""

    path: Path
    failed: tuple[str, ...]  # the error messages of images that cannot be read
    warnings: tuple[str, ...] = ()  # about the folder of the page; those about the data are on the page


View = tuple[InputConfig, LoaderSettings]


@dataclass(frozen=True)
class _Entry:
    name: str
    note: str  # "id 17, 640 pixels wide, 480 high: 2 cat, 1 dog"
    figure: Figure | None
    error: str  # the reason why there is no figure; empty: there is one
    expressions: list[str]


@dataclass(frozen=True)
class _Section:
    title: str
    lead: str
    warnings: list[str]
    entries: list[_Entry]


def browse_dataset(
    path: Path | str,
    output: Path | str | None = None,
    *,
    split: str | Path = "",
    limit: int = 50,
    annotations: str = "",
    keypoints: bool = False,
    images: str | Path = "",
    relative_boxes: bool = False,
    augmented: LoaderSettings | None = None,
    augment: Given | None = None,
    input_config: InputConfig | None = None,
    progress: Progress | None = None,
) -> BrowsePage:
    """Write browse.html: up to `limit` images of each split (0 = all), evenly spread, with their annotations drawn.

    The page is one file without links to other files. `path` and `annotations` to `relative_boxes` as in
    `open_dataset`; `output` defaults to a new runs/browse-NAME-N. The page also lists images that cannot be read.
    With `augment`, the steps as `rcnn.train` takes them, or `augmented` (training settings, `rcnn.TrainConfig`), or
    both, the page shows two versions of each training image as the network gets it: resized with `input_config`
    (default: to 800 pixels) and augmented, with the transformed objects.

    Raises ValueError or OSError if the data set cannot be read, ValueError for a negative `limit` or invalid steps,
    FileExistsError for a browse.html of the user.
    """
    limit = whole_number("limit", limit, "0 or more images of each split (0 = all)", 0)
    if output is not None:
        require_folder(as_path(output, OUTPUT))
        require_output_apart(Path(output), path, str(images or ""), own=PAGE)
    if augment is not None:
        augmented = with_steps(augmented, augment)
    opened = partial(
        open_dataset, path, annotations=annotations, keypoints=keypoints, images=images, relative_boxes=relative_boxes,
        allow_empty=True,
    )  # fmt: skip
    names = [as_text(split, "split", SPLIT)] if split else splits(path, annotations)
    if augmented is not None and not split:
        names = [default_training_split(names) or names[0]]
    datasets = [opened(name) for name in names]
    warnings: tuple[str, ...] = ()
    if output is not None:
        warnings = output_warnings(Path(output), path, str(images or ""), datasets, own=PAGE)
    view = None if augmented is None else (input_config or InputConfig(), augmented)
    with output_or_new(output, "browse", Path(path).resolve()) as folder, OutputFolder(folder) as files:
        files.require_free(PAGE)
        chosen = [_spread(len(dataset), limit) for dataset in datasets]
        with (progress or no_progress)("draw", sum(map(len, chosen))) as advance:
            sections = [_section(one, indices, view, advance) for one, indices in zip(datasets, chosen, strict=True)]
        title = Path(path).resolve().name
        lead = f"{counted(sum(map(len, datasets)), 'image')} of {counted(len(datasets), 'split')}"
        page = files.write_text(PAGE, render(PAGE, title=title, lead=lead, sections=sections))
    failed = tuple(entry.error for section in sections for entry in section.entries if entry.error)
    return BrowsePage(path=page, failed=failed, warnings=warnings)


def _spread(count: int, limit: int) -> list[int]:
    """Up to `limit` indices below `count`, evenly spread."""
    if not limit or count <= limit:
        return list(range(count))
    return np.linspace(0, count - 1, limit).round().astype(int).tolist()


def _section(dataset: Dataset, indices: Sequence[int], view: View | None, advance: Callable[[], None]) -> _Section:
    entries: list[_Entry] = []
    batches = None if view is None or not len(dataset) else augmented_batches(dataset, *view)
    try:
        skeleton: Sequence[tuple[int, int]] = skeleton_of(dataset).lines
    except ValueError:  # no keypoints
        skeleton = PERSON_SKELETON
    for index in indices:
        if batches is None:
            entries.append(_entry(dataset, dataset[index], partial(_annotated, dataset, index, skeleton)))
        else:
            for version in range(VERSIONS):
                entries.append(_entry(dataset, dataset[index], partial(_augmented, batches, index, version)))
        advance()
    images = counted(len(dataset), "image")
    shown = images if len(indices) == len(dataset) else f"{len(indices)} of {images}"
    objects = dataset.subset(indices).num_training_objects
    tested = is_test_split(dataset)
    lead = f"{shown}, no ground truth" if tested else f"{shown}, with {counted(objects, 'object')}"
    lead += "" if batches is None else f"; {VERSIONS} versions of each, as the network gets them in training"
    if not tested and (empty := [name for name, count in dataset.class_counts.items() if not count]):
        lead += f". Classes without objects in this split: {few(empty)}"
    return _Section(dataset.split, lead, list(dataset.warnings), entries)


Drawn = tuple[Image.Image, str]  # a picture, and a note on its size and objects


def _annotated(dataset: Dataset, index: int, skeleton: Sequence[tuple[int, int]]) -> Drawn:
    """Image `index` of the data set with its annotations."""
    record = dataset[index]
    return draw_ground_truth(record.read(), record, dataset.classes, skeleton=skeleton), _file_note(dataset, record)


def _augmented(batches: Batches, index: int, version: int) -> Drawn:
    """Image `index` as the network gets it in one version, with its objects after augmentation."""
    sample = augmented_sample(batches, index, version)
    height, width = sample.image.shape[-2:]
    crowds = 0 if sample.crowds is None else len(sample.crowds)
    note = _note(batches.dataset, width, height, sample.labels.tolist(), crowds)
    return draw_augmented(sample, batches.dataset), f"version {version + 1}, {note}"


def _file_note(dataset: Dataset, record: ImageRecord) -> str:
    own = record.labels[~record.ignored].tolist()
    return _note(dataset, record.width, record.height, own, int(record.ignored.sum()))


def _note(dataset: Dataset, width: int, height: int, labels: Sequence[int], ignored: int) -> str:
    """E.g. "640 pixels wide, 480 high: 2 cat, 1 dog, 1 ignored object"."""
    counts = Counter(dataset.classes[label] for label in labels)
    objects = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    objects = objects or ("no ground truth" if is_test_split(dataset) else "no objects")
    note = f"{width} pixels wide, {height} high: {objects}"
    return note + (f", {counted(ignored, 'ignored object')}" if ignored else "")


def _entry(dataset: Dataset, record: ImageRecord, draw: Callable[[], Drawn]) -> _Entry:
    figure, error, note = None, "", ""
    try:
        picture, note = draw()
        figure = embedded(picture, f"Ground truth of {record.path.name}", "")
    except (ImageError, OSError) as problem:
        error, note = str(problem), _file_note(dataset, record)
    return _Entry(record.path.name, f"id {record.image_id}, {note}", figure, error, _expressions(dataset, record))


def _expressions(dataset: Dataset, record: ImageRecord) -> list[str]:
    """One line per object with referring expressions, e.g. "cup: the blue one; left cup"."""
    lines = [
        f"{dataset.classes[int(label)]}: {'; '.join(texts)}"
        for label, texts in zip(record.labels, record.expressions or (), strict=False)
        if texts
    ]
    more = len(lines) - MAX_EXPRESSIONS
    return [*lines[:MAX_EXPRESSIONS], *([f"and {more} more"] if more > 0 else [])]
