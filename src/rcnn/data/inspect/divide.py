"""`rcnn data split`: divides a split of a data set into several, and writes them in COCO's layout."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rcnn.arguments import OUTPUT, as_path, as_texts, require_workers
from rcnn.data.formats.divided import AGAIN
from rcnn.data.inspect.info import NAME_WIDTH
from rcnn.data.messages import counted, cut, excerpt, few
from rcnn.data.opening import open_dataset
from rcnn.data.records import Dataset
from rcnn.data.similarity import fingerprints
from rcnn.data.split import (
    MIN_IMAGES,
    absent_classes,
    class_counts,
    divide_images,
    require_fractions,
    share_text,
)
from rcnn.data.writing import CocoSplit, image_sources, require_free, require_no_other_splits, write_splits
from rcnn.outputs import OutputFolder, require_folder
from rcnn.progress import Progress, no_progress

NAMES = {2: ("train", "val"), 3: ("train", "val", "test")}  # of the parts, by their number
NAME = re.compile(r"\w[\w.-]*")  # of a part: a file name that `split` can be
RESERVED = ("none", "annotations")  # --val-split none, and the folder of the annotation files


@dataclass(frozen=True, kw_only=True)
class Division:
    """What `split_dataset` wrote."""

    output: Path
    classes: tuple[str, ...]  # (K,)
    images: dict[str, int]  # per part
    objects: dict[str, np.ndarray]  # per part: (K,) objects per class, without ignored ones
    fractions: tuple[float, ...]  # of the images, as requested per part
    original: Path | None = None  # annotation file or folder, if the parts are in the same folder
    failed: tuple[str, ...] = ()  # errors of images that cannot be read; these images are in the parts too

    def lines(self) -> list[str]:
        """A table (rows: classes, columns: parts), then one line per part, and one about the original labels."""
        width = max(7, *(min(NAME_WIDTH, len(name)) for name in self.classes))
        rows = [("", list(self.images)), ("images", [f"{count:,}" for count in self.images.values()])]
        for label, name in enumerate(self.classes):
            counts = [int(objects[label]) for objects in self.objects.values()]
            rows.append((cut(name, NAME_WIDTH), [f"{count:,} ({count / max(1, sum(counts)):.0%})" for count in counts]))
        table = [f"{name:{width}}" + "".join(f"{cell:>16}" for cell in cells) for name, cells in rows]
        later = f"the parts are copies of the labels. After editing {self.original}, {AGAIN}"
        lines = [*table, *map(self._reached, self.images, self.fractions)]
        return lines if self.original is None else [*lines, later]

    def _reached(self, part: str, fraction: float) -> str:
        """The number and fraction of the images in a part, and the classes without objects in it."""
        count, total = self.images[part], sum(self.images.values())
        absent = absent_classes(self.classes, self.objects[part], np.sum([*self.objects.values()], axis=0))
        return f"{part}: {count} of {counted(total, 'image')}, {share_text(count / total, fraction, absent)}"


def split_dataset(
    path: Path | str,
    fractions: Sequence[float],
    output: Path | str,
    *,
    split: str | Path = "",
    names: str | Sequence[str] = (),
    annotations: str = "",
    keypoints: bool = False,
    images: str | Path = "",
    relative_boxes: bool = False,
    workers: int = 2,
    progress: Progress | None = None,
) -> Division:
    """Divide `split` of a data set (the only one, if it has one) into parts of about `fractions` of every class.

    The parts, by default train and val (and test), are written to `output` with copies of the images; if `output` is
    the data set's own folder, only annotation files are added to it. See data/split.py for the choice. Raises
    ValueError for fractions that do not add up to 1, for fewer than 10 images, and for images outside the data set that
    would not be copied; FileExistsError for files in `output` that rcnn did not write.
    """
    require_folder(as_path(output, OUTPUT))
    workers = require_workers(workers)
    fractions = require_fractions(fractions)
    parts = as_texts(names, "names (--names)") or NAMES.get(
        len(fractions), tuple(f"part{n}" for n in range(1, len(fractions) + 1))
    )
    if len(parts) != len(fractions) or len(set(parts)) < len(parts):
        raise ValueError(
            f"names (--names) {', '.join(parts)}: expected {len(fractions)} different names, one per fraction"
        )
    for name in parts:
        if not NAME.fullmatch(name) or name in RESERVED or name.endswith(".txt"):
            raise ValueError(
                f"names (--names): {excerpt(name)} cannot be the name of a split; expected letters, digits, - and _, "
                f"and not {' or '.join(RESERVED)}"
            )
    dataset = open_dataset(
        path, split, annotations=annotations, keypoints=keypoints, images=images, relative_boxes=relative_boxes
    )
    if len(dataset) < MIN_IMAGES:
        raise ValueError(
            f"{dataset.annotation_file} has {counted(len(dataset), 'image')}; expected at least {MIN_IMAGES} to divide "
            "them by class: use all of them for training, or annotate more"
        )
    inside = Path(output).resolve() == dataset.root.resolve()
    if inside:
        _require_images_inside(dataset)
    with OutputFolder(dataset.root if inside else output) as folder:  # `output` may be a link to the data set
        original = dataset.annotation_file if inside else None
        require_free(folder, parts)
        if not inside:
            require_no_other_splits(folder.path, parts)
        with (progress or no_progress)("compare images", len(dataset)) as advance:
            prints = fingerprints(image_sources(dataset), workers=workers, advance=advance)
        counts = class_counts(dataset)
        indices = divide_images(counts, prints, fractions)
        if empty := [name for name, own in zip(parts, indices, strict=True) if not own]:
            raise ValueError(
                f"{dataset.annotation_file}: no image is left for {', '.join(empty)}, because too many images are "
                "copies of each other; choose other fractions"
            )
        with (progress or no_progress)("write", len(dataset)) as advance:
            written = _parts(dataset, parts, indices)
            write_splits(folder, written, copy=not inside, divided_from=original, advance=advance)
    return Division(
        output=Path(output),
        classes=dataset.classes,
        images={name: len(own) for name, own in zip(parts, indices, strict=True)},
        objects={name: counts.totals(own) for name, own in zip(parts, indices, strict=True)},
        fractions=tuple(fractions),
        original=original,
        failed=tuple(one.error for one in prints if one.error),
    )


def _require_images_inside(dataset: Dataset) -> None:
    """Raise ValueError for images outside the folder of a data set, which annotation files in it cannot name."""
    root = os.path.abspath(dataset.root)
    outside = [one for one in image_sources(dataset) if not Path(os.path.abspath(one)).is_relative_to(root)]
    if outside:
        raise ValueError(
            f"{counted(len(outside), 'image')} of {dataset.annotation_file} {'is' if len(outside) == 1 else 'are'} "
            f"outside the data set {dataset.root} ({few(outside)}), and annotation files in it cannot name "
            "them: choose another output folder (--output), to which the images are copied"
        )


def _parts(dataset: Dataset, names: Sequence[str], indices: Sequence[Sequence[int]]) -> list[CocoSplit]:
    """The parts `names` with the images at `indices`, and the annotations of these images."""
    tables, sources = dataset.to_coco(), image_sources(dataset)
    parts: list[CocoSplit] = []
    for name, own in zip(names, indices, strict=True):
        images = [tables["images"][index] for index in own]
        ids = {image["id"] for image in images}
        parts.append(
            CocoSplit(
                name=name,
                images=images,
                annotations=[entry for entry in tables["annotations"] if entry["image_id"] in ids],
                categories=tables["categories"],
                sources=[sources[index] for index in own],
                metric=dataset.metric,
            )
        )
    return parts
