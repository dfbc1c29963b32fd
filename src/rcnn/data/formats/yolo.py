"""YOLO's format: a text file per image, with a line per object in fractions of the image.

A line is `class cx cy width height` (a box) or `class x1 y1 x2 y2 x3 y3 ...` (a polygon). The class is an index into
the names of data.yaml (Ultralytics, Roboflow) or of a names file (darknet, LabelImg, Label Studio, CVAT). Labels of
images/a.jpg are in labels/a.txt, otherwise beside the image.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.images import readable_sizes
from rcnn.data.checks.numbers import as_number
from rcnn.data.checks.tables import RawEntry, RawTables, Tables
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.yolo_images import ImageSource, expected_labels, images_of
from rcnn.data.formats.yolo_keypoints import BOX, keypoint_shape
from rcnn.data.formats.yolo_labels import absent_images, has_yolo_lines, misplaced_labels, second_labels, unused_labels
from rcnn.data.formats.yolo_layouts import Layout, layout_of, layout_splits, not_paths
from rcnn.data.messages import SKIPPED, Warnings, counted, excerpt, few
from rcnn.text_files import OTHER_ENCODING, NotUnicodeError, read_text

NAME = "YOLO"
SPLIT_FILES = (
    "{split} in data.yaml, {split}.txt, images/{split}/ with labels/{split}/, {split}/images/ with {split}/labels/"
)
OVER_EDGE = 0.01  # fraction of the image that a coordinate may be outside it, as rounding causes in many files
PROBED = 100  # label files in which lines with keypoints are searched for
MIN_POLYGON = 7  # class, x and y of three points


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of a label file."""

    # its id: the label file without suffix (without folder, too, if that is unique), or the image if several have that
    # file, and the line number
    name: str
    words: list[str]
    size: tuple[int, int]  # height and width of the image


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the splits of data.yaml, of darknet's list files, or of the image folders; "all" for a single one.

    `annotations` is the path of another YAML file.
    """
    return layout_splits(folder, annotations)


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has `split` in one of YOLO's layouts."""
    return split in splits(folder, annotations)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. The id of an image is its path, that of an object its label file and line.

    Category ids are the indices of the classes in the file with their names, from 0. `options.annotations` is the path
    of a YAML file other than data.yaml. Raises ValueError or OSError, with the file and what is wrong in it.
    """
    layout = layout_of(folder, options.annotations)
    names: dict[object, str] = {}
    warnings = Warnings(layout.file, names)
    if layout.keypoints:
        warnings.note("keypoints (kpt_shape) are not used, only the boxes of their objects")
    _report_names(layout, warnings)
    _report_entries(layout, split, warnings)
    if split in layout.missing and split not in layout.sources:
        raise ValueError(
            f"{layout.file}: {split} is {few([excerpt(one) for one in layout.missing[split]])}, which does not exist; "
            f"correct the path, relative to {layout.root}"
        )
    if layout.absent_path:
        warnings.note(f"path is {excerpt(layout.absent_path)}, which does not exist; {layout.root} is used")
    for line in layout.moved.get(split, []):
        warnings.note(f"{split}: {line}")
    listed = images_of(layout, split, warnings)
    sizes = readable_sizes({source.name: source.path for source in listed}, options.known_images, warnings)
    sources = [source for source in listed if source.name in sizes]
    uses = Counter(source.labels for source in sources if source.labels is not None)
    stems = Counter(file.stem for file in uses)
    shared = [source.name for source in sources if source.labels is not None and uses[source.labels] > 1]
    what = "the label file of another image: their names differ only in the suffix"
    warnings.add(what, "used for each of them; give each its own name and label file", shared, "image")
    pose = _keypoint_shape(sources, layout)
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    for source in sources:
        size = sizes[source.name]
        text = _text(source, layout.root, warnings)
        if text is None:
            continue
        images.append({"id": source.name, "file_name": source.name, "height": size[0], "width": size[1]})
        start = ""
        if source.labels is not None and uses[source.labels] > 1:
            start = source.name
        elif source.labels is not None and stems[source.labels.stem] == 1:
            start = source.labels.stem
        lines = list(_lines(source, text, size, layout.root, names, start))
        objects = list(_objects(lines, layout, pose, warnings))
        found += [entry | {"image_id": source.name} for entry in objects]
        if lines and not objects:
            warnings.all_skipped([source.name])
    _note_unlabelled(layout, sources, warnings)
    second = second_labels(layout, listed)
    for (other, used), own in second.items():
        if (absent := absent_images(layout, other, used, own)) is None:
            warnings.second_labels(other, used, [source.name for source in own])
        else:
            warnings.note(
                f"{other} has label files with the names of {counted(len(own), 'image')} of {split}, but belongs to "
                f"another split, whose images are not here ({absent} has none): not used"
            )
    unused = unused_labels(layout, split, listed, second)
    warnings.add(
        "no image of that name, or not in a format for images", "not used", unused, "label file", kind="missing-image"
    )
    _report_missing(layout, warnings)
    raw = RawTables(
        file=layout.file,
        root=layout.root,
        folders=(layout.root,),
        images=images,
        annotations=found,
        categories=[{"id": number, "name": name} for number, name in enumerate(layout.names)],
        names=names,
    )
    return check_tables(raw, warnings, options.known)


def _text(source: ImageSource, root: Path, warnings: Warnings) -> str | None:
    """The text of the label file of an image; empty if there is no file; None, with a warning, if it is not text."""
    if source.labels is None:
        return ""
    try:
        return read_text(source.labels)
    except NotUnicodeError:
        what = OTHER_ENCODING
    except ValueError:
        what = "content that is not text, or is a folder, pipe or device"
    file = _label_name(source.labels, root)
    warnings.add(what, "skipped with its image", [file], "label file", kind="unreadable-file")
    return None


def _label_name(labels: Path, root: Path) -> str:
    """The name of a label file in messages."""
    return os.path.relpath(labels, root).replace(os.sep, "/")


def _lines(
    source: ImageSource, text: str, size: tuple[int, int], root: Path, names: dict[object, str], start: str
) -> Iterator[_Line]:
    """The non-empty lines in the `text` of the label file of an image; none if there is no file.

    The name of each line in messages, e.g. labels/train/a.txt:3, is added to `names`. `start` is the start of its id,
    by default the path of the label file without suffix.
    """
    if source.labels is None:
        return
    file = _label_name(source.labels, root)
    for number, line in enumerate(text.splitlines(), start=1):
        if words := line.split():
            name = f"{start or os.path.splitext(file)[0]}:{number}"
            names[name] = f"{file}:{number}"
            yield _Line(name=name, words=words, size=size)


def _keypoint_shape(sources: Sequence[ImageSource], layout: Layout) -> tuple[int, int] | None:
    """`kpt_shape` of lines with other keypoints than data.yaml describes, if the first label files have such lines."""
    labelled = [source for source in sources if source.labels is not None][:PROBED]
    ignored = Warnings(layout.file)
    texts = [_text(one, layout.root, ignored) or "" for one in labelled]
    lines = [line.split() for text in texts for line in text.splitlines()]
    return keypoint_shape([words for words in lines if words and len(words) != BOX + layout.keypoints])


def _objects(
    lines: Iterable[_Line], layout: Layout, pose: tuple[int, int] | None, warnings: Warnings
) -> Iterator[RawEntry]:
    """The annotations of an image, without the image; a line that is written twice is one object."""
    seen = set[tuple[str, ...]]()
    for line in lines:
        if tuple(line.words) in seen:
            warnings.add("the same line as another annotation of the image", "used once", [line.name])
            continue
        seen.add(tuple(line.words))
        values = _values(line, layout, pose, warnings)
        if values is not None:
            label, *numbers = values
            yield {"id": line.name, "category_id": int(label), "iscrowd": 0} | _outline(numbers, line.size)


def _values(line: _Line, layout: Layout, pose: tuple[int, int] | None, warnings: Warnings) -> list[float] | None:
    """The numbers of a box (5) or a polygon (7 or more) in a line; None, with a warning, for anything else.

    `pose` is the `kpt_shape` of lines with keypoints that data.yaml does not describe.
    """
    if any("," in word for word in line.words):
        what = "commas; expected numbers with decimal points, separated by spaces (0 0.5 0.5 0.25 0.25)"
        warnings.add(what, SKIPPED, [line.name], kind="bad-shape")
        return None
    values = [as_number(word) for word in line.words]
    keypoints = layout.keypoints
    if keypoints and len(values) == BOX + keypoints:
        values = values[:BOX]
    elif pose is not None and len(values) == BOX + pose[0] * pose[1]:
        each = "x, y, visibility" if pose[1] == 3 else "x, y"
        what = f"{counted(pose[0], 'keypoint')} ({each}) after the box, but data.yaml has no such kpt_shape"
        advice = f"only the box was used; write kpt_shape: [{pose[0]}, {pose[1]}] in data.yaml"
        warnings.add(what, advice, [line.name], kind="bad-shape")
        values = values[:BOX]
    elif len(values) == BOX + 1:
        warnings.add("a sixth number, e.g. a confidence", "that number was not used", [line.name])
        values = values[:BOX]
    if len(values) != BOX and (len(values) < MIN_POLYGON or len(values) % 2 == 0):
        what = f"{counted(len(values), 'number')}; expected class and 4 numbers (box), or class and 3 points or more"
        warnings.add(what, SKIPPED, [line.name], kind="bad-shape")
    elif not values[0].is_integer() or not 0 <= values[0] < len(layout.names):
        what = f"a class that is not one of the {counted(len(layout.names), 'name')}, counted from 0"
        warnings.add(what, SKIPPED, [line.name], kind="no-class")
    elif not all(-OVER_EDGE <= value <= 1 + OVER_EDGE for value in values[1:]):  # also NaN
        what = "a coordinate that is not from 0 to 1 (fractions of the image; pixels must be divided by its size)"
        warnings.add(what, SKIPPED, [line.name], kind="bad-shape")
    else:
        return values
    return None


def _outline(numbers: Sequence[float], size: tuple[int, int]) -> RawEntry:
    """`bbox` or `segmentation` in pixels of an image of `size` (height, width)."""
    height, width = size
    if len(numbers) == BOX - 1:
        x, y, w, h = numbers
        return {"bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]}
    return {"segmentation": [[value * (height if i % 2 else width) for i, value in enumerate(numbers)]]}


def _report_names(layout: Layout, warnings: Warnings) -> None:
    """Report classes without names, and another number of classes than of names."""
    last = len(layout.names) - 1
    if layout.numbered:
        warnings.note(
            f"nc is {len(layout.names)} and there are no names: the classes are called class_0 to class_{last}; for "
            "other names, write names: [...] into the file"
        )
    warnings.add(
        f"no name in names, which has names up to number {last}",
        f"called {few([layout.names[number] for number in layout.unnamed])}; add the names or, if there are no such "
        "classes, number the others from 0 without gaps, here and in the labels",
        layout.unnamed,
        "class",
        kind="bad-category-name",
    )
    if layout.count is not None and layout.count != len(layout.names):
        what = f"an nc of {layout.count} for {counted(len(layout.names), 'name')}"
        warnings.add(what, "the names are used", [layout.file.name], "file")


def _report_entries(layout: Layout, split: str, warnings: Warnings) -> None:
    """Report the entries of data.yaml that are not used: keys that are given twice, and values that are not paths."""
    warnings.add("more than one value", "the last one is used; remove the others", layout.repeated, "key")
    for key, wrong in layout.unused.items():
        if key in ("path", split) or key not in layout.sources:  # each split reports its own
            action = f"{layout.root} is used" if key == "path" else "skipped"
            warnings.add(not_paths(wrong), f"{action}; correct it", [key], "key")


def _report_missing(layout: Layout, warnings: Warnings) -> None:
    """Report paths of data.yaml that do not exist."""
    for key, texts in layout.missing.items():
        what = f"{few([excerpt(one) for one in texts])}, which does not exist"
        if key == "test":  # exports often name a test split that they do not contain
            warnings.note(f"{key} names {what}: skipped")
        else:
            warnings.add(
                f"the path {what}",
                f"skipped; correct the path, relative to {layout.root}",
                [key],
                "split",
                kind="missing-split",
            )


def _note_unlabelled(layout: Layout, sources: Sequence[ImageSource], warnings: Warnings) -> None:
    """Note the images without a label file, which are images without objects in YOLO's format."""
    without = [os.path.basename(source.name) for source in sources if source.labels is None]
    if without and len(without) == len(sources):
        expected = os.path.relpath(expected_labels(sources[0].path, layout.root), layout.root).replace(os.sep, "/")
        what = f"no label file; expected e.g. {expected} for {sources[0].name}"
        what += _where_labels_are(layout, misplaced_labels(layout, sources), {source.path.stem for source in sources})
        warnings.add(what, "used as images without objects", without, "image", kind="no-labels")
    if without:
        warnings.note(f"{counted(len(without), 'image')} without a label file ({few(without)}): used as negatives")


def _where_labels_are(layout: Layout, places: Sequence[Path], stems: Collection[str]) -> str:
    """What to do about text files with the names `stems` of images in the folders `places`; empty if there are none."""
    parts = {part for place in places for part in place.relative_to(layout.root).parts}
    upper = {part for part in parts if part != "labels" and part.lower() == "labels"}
    if upper:
        return (
            f", but there is a folder {few(sorted(upper))}: name the folders images and labels, in lower case, also in "
            f"{layout.file.name}"
        )
    if labels := [place for place in places if has_yolo_lines(place, stems)]:
        return f", but label files of these names are in {few([str(place) for place in labels])}: move them there"
    if places:
        return (
            f", but the text files in {few([str(place) for place in places])} do not have YOLO's lines: export the "
            "annotations again in YOLO's format, or as COCO"
        )
    return ""
