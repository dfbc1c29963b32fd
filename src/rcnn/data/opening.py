"""Opens a data set: a folder or annotation file in any format, and the splits to use -> Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rcnn.arguments import DATA, SPLIT, as_path, as_text, as_texts, require_switches
from rcnn.commands import as_typed
from rcnn.data.assemble import CROWDS_AS_OBJECTS, assemble
from rcnn.data.checks.tables import Tables
from rcnn.data.formats.layouts import locate, splits_at
from rcnn.data.messages import close_to, counted, few
from rcnn.data.records import Dataset
from rcnn.data.selection import select
from rcnn.text_files import gc_paused


@dataclass(frozen=True, kw_only=True)
class DatasetOptions:
    """The keyword arguments of `open_dataset`, which describes them, and `optional_files`."""

    ignore_other_classes: bool = False
    keypoints: bool = False
    one_class: bool = False
    annotations: str = ""
    images: str | Path = ""
    optional_files: bool = False  # image files may all be absent, in formats with the sizes of the images
    relative_boxes: bool = False
    strict: bool = False
    allow_empty: bool = False

    def __post_init__(self) -> None:
        """Raises ArgumentTypeError for a switch that is neither True nor False."""
        require_switches(
            ignore_other_classes=self.ignore_other_classes, keypoints=self.keypoints, one_class=self.one_class,
            optional_files=self.optional_files, relative_boxes=self.relative_boxes, strict=self.strict,
            allow_empty=self.allow_empty,
        )  # fmt: skip


def open_dataset(
    path: Path | str,
    split: str | Path = "",
    classes: str | Sequence[str] | None = None,
    *,
    ignore_other_classes: bool = False,
    keypoints: bool = False,
    one_class: bool = False,
    annotations: str = "",
    images: str | Path = "",
    relative_boxes: bool = False,
    strict: bool = False,
    allow_empty: bool = False,
) -> Dataset:
    """The images and objects of one or several splits of a data set.

    `path` is the folder of the data set, or one annotation file. `split` is the name of a split (default: the only
    one), several joined by "+" ("train+val"), or a text file with an image id or file name per line ("ids.txt",
    "train:ids.txt" for the images of one split).
    `classes` are the names of the labels, in their order (e.g. those of a checkpoint). Objects of other classes are
    ignored with a warning, or without one if `ignore_other_classes`. Without `classes`, labels follow ascending
    category ids.
    `keypoints` prefers COCO's person_keypoints_SPLIT.json to instances_SPLIT.json if both exist; `annotations`
    names the file within the folder, with "{split}" for the split: "labels/{split}_v2.json". `images` is the folder of
    the images, if they are not in one of the usual places: a path within the folder, else from the working directory.
    `relative_boxes`: boxes are fractions of the image, 0 to 1.
    `one_class` gives all objects the one class in `classes`, or "object", e.g. to evaluate proposals.

    Faulty objects and fields are repaired or skipped, and counted in `Dataset.warnings`; `strict` raises ValueError
    instead. A split without objects to train on is refused unless `allow_empty`.
    Raises FileNotFoundError for a missing folder, split or image, ValueError for files that cannot be read.
    """
    options = DatasetOptions(
        ignore_other_classes=ignore_other_classes,
        keypoints=keypoints,
        one_class=one_class,
        annotations=annotations,
        images=images,
        relative_boxes=relative_boxes,
        strict=strict,
        allow_empty=allow_empty,
    )
    return open_with(options, path, split, classes)


def open_with(
    options: DatasetOptions, path: Path | str, split: str | Path = "", classes: str | Sequence[str] | None = None
) -> Dataset:
    """Like `open_dataset`, with its keyword arguments as one value."""
    split = as_text(split, "split", SPLIT)
    location = locate(
        as_path(path, "the data set", DATA),
        options.annotations,
        images=options.images,
        keypoints=options.keypoints,
        optional_files=options.optional_files,
        relative_boxes=options.relative_boxes,
    )
    if classes is not None:  # also an array of numpy
        classes = as_texts(classes, "classes")
    with gc_paused():
        selection = select(location, split)
        tables = selection.read()
        dataset = assemble(
            tables,
            root=location.folder,
            split=selection.name,
            classes=None if options.one_class else classes,
            ignore_other_classes=options.ignore_other_classes,
            reader=selection.read,
        )
    if options.strict and dataset.warnings:
        raise ValueError(
            f"{counted(len(dataset.warnings), 'kind')} of fault, refused by strict=True (--strict): repair them, or "
            "do not use strict\n" + "\n".join(dataset.warnings)
        )
    if not options.allow_empty and not dataset.num_training_objects:
        if classes and not options.one_class and (used := _names_used(tables)) and used.isdisjoint(classes):
            names = few([name + close_to(name, classes) for name in sorted(used)])
            what = (
                f"{tables.file} has no objects of {few(classes)}, the classes of the model; it has {names}. Rename its "
                "categories, or use a model that was trained on these classes"
            )
            raise ValueError("\n".join((what, *tables.notes)))
        raise ValueError("\n".join((_without_objects(dataset), *dataset.warnings)))
    return dataset.as_one_class(classes[0] if classes else "object") if options.one_class else dataset


def splits(path: Path | str, annotations: str = "") -> list[str]:
    """Names of the splits in the folder of a data set, sorted; `annotations` as in `open_dataset`.

    A data set that is not divided has the one split "all". Raises FileNotFoundError if there is no data set,
    ValueError if `annotations` is one file for all splits.
    """
    return splits_at(locate(as_path(path, "the data set", DATA), annotations))


def _names_used(tables: Tables) -> set[str]:
    """The names of the classes that have objects."""
    ids = {annotation["category_id"] for annotation in tables.annotations}
    return {category["name"] for category in tables.categories if category["id"] in ids}


def _without_objects(dataset: Dataset) -> str:
    difficult = int(dataset.objects.difficult.sum())
    crowds = int(dataset.objects.ignored.sum()) - difficult
    ignored = [counted(count, noun) for count, noun in ((crowds, "crowd"), (difficult, "difficult object")) if count]
    only = f", only {' and '.join(ignored)}" if ignored else ""
    advice = f"To use crowds, {CROWDS_AS_OBJECTS}. Else choose" if crowds else "Choose"
    if dataset.annotation_file.name.startswith("image_info_"):
        command = as_typed("rcnn", "predict", "CHECKPOINT", "--data", "DIR", "--split", dataset.split)
        return (
            f"{dataset.annotation_file} lists {counted(len(dataset), 'image')} without ground truth, so it cannot be "
            f"used for training or evaluation. `{command}` writes the results file for COCO's server"
        )
    return (
        f"{dataset.annotation_file} has {counted(len(dataset), 'image')} and no objects to train or evaluate on{only}. "
        f"{advice} another split, export the annotations again, or accept this with allow_empty=True "
        "(--allow-empty)"
    )
