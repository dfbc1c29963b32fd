"""Checked tables -> Dataset: gives classes their labels, and stores the objects used in training as columns.

Boxes are clipped to their images. Objects with a box that is empty or outside the image are not used in training, but
remain ground truth in evaluation, so that metrics agree with those of other tools on the same file.

Letters: I images, A objects, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from rcnn.data.checks.boxes import OVER_EDGE
from rcnn.data.checks.tables import Annotation, Category, Image, Tables
from rcnn.data.messages import Warnings, close_to, counted, few
from rcnn.data.records import Dataset, Objects, Reader
from rcnn.data.segmentations import pack_outlines

NOT_TRAINED = "skipped in training, kept in evaluation"
# From this number and this fraction of crowds on there is a warning: some tools mark ordinary objects as crowds.
MIN_CROWDS, MANY_CROWDS = 5, 1 / 3
CROWDS_AS_OBJECTS = "write a copy in which they are objects: `rcnn data check DIR --fix OUT --crowds-as-objects`"


def assemble(
    tables: Tables,
    *,
    root: Path,
    split: str,
    classes: Sequence[str] | None,
    ignore_other_classes: bool,
    reader: Reader,
    pixels: Callable[[int], Tensor] | None = None,
) -> Dataset:
    """The data set of the tables. `classes` and `ignore_other_classes` are those of `open_dataset`.

    `reader` reads the tables again. `pixels` reads the image at an index, uint8 RGB (3, H, W); None: images are files.
    Raises ValueError if `classes` contains a name twice.
    """
    warnings = Warnings(tables.file, tables.names)
    chosen = _chosen_categories(tables, classes)
    label = {category["id"]: index for index, category in enumerate(chosen)}
    annotations = [annotation for annotation in tables.annotations if annotation["category_id"] in label]
    objects = _objects(annotations, tables.images, label, warnings)
    findings = (*tables.findings, *warnings.findings())
    others = () if ignore_other_classes else _other_classes(tables, label, classes or ())
    return Dataset(
        root=root,
        split=split,
        annotation_file=tables.file,
        folder=tables.folder,
        classes=tuple(category["name"] for category in chosen),
        category_ids=tuple(category["id"] for category in chosen),
        image_ids=tuple(image["id"] for image in tables.images),
        file_names=tuple(image["file_name"] for image in tables.images),
        sizes=np.array([(image["height"], image["width"]) for image in tables.images], dtype=np.int64).reshape(-1, 2),
        objects=objects,
        categories=chosen,
        label_of=label,
        reader=reader,
        missing_classes=_missing_classes(tables, classes or ()),
        keypoints_differ=tables.keypoints_differ,
        findings=findings,
        warnings=(*(one.line() for one in tables.findings), *others, *warnings.lines()),
        notes=tables.notes,
        metric=tables.metric,
        pixels=pixels,
        without_files=tables.without_files,
    )


def _chosen_categories(tables: Tables, classes: Sequence[str] | None) -> tuple[Category, ...]:
    """The categories by label; a class that is only in `classes` gets an id that the file does not use."""
    if classes is None:
        return tuple(tables.categories)
    if not classes:
        raise ValueError("classes is empty; expected class names, or None for those of the data set")
    if len(set(classes)) < len(classes):
        repeated = [name for name, uses in Counter(classes).items() if uses > 1]
        raise ValueError(f"classes has {few(repeated)} more than once; expected different names")
    named = {category["name"]: category for category in tables.categories}
    free = max(named[name]["id"] for name in named) + 1
    return tuple(named.get(name) or {"id": free + index, "name": name} for index, name in enumerate(classes))


def _missing_classes(tables: Tables, classes: Sequence[str]) -> tuple[str, ...]:
    """The names in `classes` that are not a category of the annotation file."""
    names = {category["name"] for category in tables.categories}
    return tuple(name for name in classes if name not in names)


def _other_classes(tables: Tables, label: dict[int, int], classes: Sequence[str]) -> tuple[str, ...]:
    """A warning about objects of classes that are not used."""
    uses = Counter(a["category_id"] for a in tables.annotations if a["category_id"] not in label)
    if not uses:
        return ()
    names = [category["name"] for category in tables.categories if category["id"] in uses]
    shown = ", ".join(repr(name) + close_to(name, classes) for name in names[:5])
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (
        f"{tables.file}: {counted(sum(uses.values()), 'object')} of {counted(len(names), 'class')} that the model "
        f"lacks ({shown}{more}) {'is' if sum(uses.values()) == 1 else 'are'} ignored; the model has {few(classes)}. To "
        "use them, rename the categories in the file, or train a model on a data set that has these classes",
    )


def _objects(
    annotations: Sequence[Annotation], images: Sequence[Image], label: dict[int, int], warnings: Warnings
) -> Objects:
    """The objects that can be used in training, in the order of the images."""
    order, image = _image_order(annotations, images)
    annotations, image = [annotations[i] for i in order.tolist()], image[order]
    ids = np.empty(len(annotations), dtype=object)
    ids[:] = [one["id"] for one in annotations]
    boxes, kept = _clipped_boxes(annotations, _sizes(images)[image], ids, warnings)
    lost = np.setdiff1d(image, image[kept])
    warnings.all_skipped([images[i]["id"] for i in lost.tolist()])

    annotations = [annotations[i] for i in np.flatnonzero(kept).tolist()]
    bare = [one["id"] for one in annotations if "segmentation" not in one]
    if len(bare) < len(annotations):  # a data set with boxes only needs no warning
        warnings.add("a box but no outline", "used for boxes, not for masks", bare, kind="missing-outline")
    crowds = [one["id"] for one in annotations if one["iscrowd"] and not one.get("difficult", 0)]
    if len(crowds) >= MIN_CROWDS and MANY_CROWDS * len(annotations) < len(crowds) < len(annotations):
        what = (
            f"iscrowd 1, of {len(annotations)} objects: these count as crowds. CVAT exports brush masks with iscrowd 1"
        )
        warnings.add(what, f"not trained on; to use them, {CROWDS_AS_OBJECTS}", crowds, kind="many-crowds")
    whole = all(isinstance(one, int) and abs(one) < 2**62 for one in ids)
    points = [one["keypoints"] for one in annotations if "keypoints" in one]
    difficult = np.array([one.get("difficult", 0) for one in annotations], dtype=bool)
    return Objects(
        starts=np.searchsorted(image[kept], np.arange(len(images) + 1)),
        boxes=boxes[kept],
        labels=np.array([label[one["category_id"]] for one in annotations], dtype=np.int64),
        ignored=difficult | np.array([one["iscrowd"] for one in annotations], dtype=bool),
        difficult=difficult,
        areas=np.array([one["area"] for one in annotations], dtype=np.float64),
        ids=ids[kept].astype(np.int64) if whole else ids[kept],
        keypoints=np.array(points, dtype=np.float32).reshape(len(points), -1, 3) if points else None,
        outlines=pack_outlines(annotations),
        expressions=tuple(tuple(one.get("expressions", ())) for one in annotations)
        if any("expressions" in one for one in annotations)
        else None,
    )


def object_rows(tables: Tables) -> np.ndarray:
    """Index (A,) into `tables.annotations` of each object of the data set with all classes, in its order."""
    order, image = _image_order(tables.annotations, tables.images)
    annotations = [tables.annotations[row] for row in order.tolist()]
    ids = np.arange(len(annotations))
    _, kept = _clipped_boxes(annotations, _sizes(tables.images)[image[order]], ids, Warnings(tables.file))
    return order[kept]


def _image_order(annotations: Sequence[Annotation], images: Sequence[Image]) -> tuple[np.ndarray, np.ndarray]:
    """The order (A,) that groups annotations by image, and the index (A,) of the image of each annotation."""
    index = {image["id"]: i for i, image in enumerate(images)}
    image = np.array([index[annotation["image_id"]] for annotation in annotations], dtype=np.int64)
    return np.argsort(image, kind="stable"), image


def _sizes(images: Sequence[Image]) -> np.ndarray:
    """Height and width (I, 2) of the images."""
    return np.array([(one["height"], one["width"]) for one in images], dtype=np.float64).reshape(-1, 2)


def _clipped_boxes(
    annotations: Sequence[Annotation], sizes: np.ndarray, ids: np.ndarray, warnings: Warnings
) -> tuple[np.ndarray, np.ndarray]:
    """The boxes (A, 4) float32 xyxy, clipped to their images, and (A,) bool: which of them can be used in training.

    `sizes` (A, 2) are height and width of the images.
    """
    x, y, width, height = np.array([one["bbox"] for one in annotations], dtype=np.float64).reshape(-1, 4).T
    boxes = np.stack([x, y, x + width, y + height], axis=1)
    clipped = boxes.clip(0, np.tile(sizes[:, ::-1], 2)).astype(np.float32)
    solid = (width > 0) & (height > 0)
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    kept = solid & inside
    beyond = kept & (np.abs(boxes - clipped) > OVER_EDGE).any(axis=1)
    warnings.add("a box of zero size", NOT_TRAINED, ids[~solid].tolist(), kind="empty-box")
    warnings.add("a box outside the image", NOT_TRAINED, ids[solid & ~inside].tolist(), kind="box-outside")
    warnings.add(
        "a box partly outside the image",
        "clipped to the image for training",
        ids[beyond].tolist(),
        kind="box-beyond-edge",
    )
    return clipped, kept
