"""Pascal VOC (Everingham et al. 2010): boxes in an XML file per image, and instances in images of ids.

| set | list of images | objects |
|---|---|---|
| boxes | ImageSets/Main/SPLIT.txt | Annotations/ID.xml |
| instances (`SPLIT_segmentation`) | ImageSets/Segmentation/SPLIT.txt | SegmentationObject/ID.png; 255: border |
| XML of other tools | all files of a folder | ID.xml in Annotations/, or beside the image |

The folder may contain VOC2007 or VOC2012, or be one of them. With several, the splits are trainval_2007,
trainval_2012, ... Objects that are marked difficult are not trained on.

A folder VOC20xx is VOC's own: it has VOC's 20 classes, VOC's metric, and boxes that count pixels from 1. Other folders
come from other tools: they have classes by name, COCO's metric, and corners in pixels from 0 (see voc_xml.py).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.tables import MetricName, RawEntry, Tables
from rcnn.data.formats.files import ALL
from rcnn.data.formats.many_files import images_in, instances, named_tables, subfolders
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.voc_xml import VocImage, VocObject, read_voc_image
from rcnn.data.images import read_ids
from rcnn.data.messages import SKIPPED, Warnings, counted, few
from rcnn.text_files import lines_of

NAME = "Pascal VOC"
SPLIT_FILES = "ImageSets/Main/{split}.txt, ImageSets/Segmentation/{split}.txt, {split}/ with XML files"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
OFFICIAL = re.compile(r"VOC(?P<year>20\d\d)")  # start of the name of VOC's own folders
LAST_11_POINT_YEAR = 2009  # from 2010 on, AP is the area under the curve
NAMES = "class_names.txt"  # of the classes in SegmentationClass, background first, as labelme2voc writes it
SEGMENTATION = "_segmentation"  # end of the names of splits with instances, where there are splits with boxes too
BORDER = 255  # id of the border around instances, and of objects that were not annotated
BACKGROUND = (0, BORDER)
MIN_IOU = 0.5  # of an instance and the box of the same object in the XML


@dataclass(frozen=True, kw_only=True)
class _Split:
    """Where the files of a split are."""

    file: Path  # the list of images, or the folder of the XML files
    annotations: Path  # folder of XML files
    images: Path
    masks: Path | None = None  # folder of SegmentationObject and SegmentationClass
    metric: MetricName = "coco"  # default metric
    official: bool = False  # a folder VOC20xx: 20 classes even where some have no objects, pixels counted from 1

    def ids(self, warnings: Warnings) -> list[str]:
        """Names of the images, without suffix."""
        if self.file.is_dir():
            return sorted(file.stem for file in self.file.glob("*.xml"))
        names = [line.split()[0] for line in lines_of(self.file)]
        uses = Counter(names)
        warnings.add("more than one line", "used once", [name for name in uses if uses[name] > 1], "image")
        return list(uses)


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the lists in ImageSets, of the subfolders with XML files, or "all"."""
    return set() if annotations else set(_splits(folder))


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has `split` in VOC's layout."""
    return split in splits(folder, annotations)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. Images have VOC's ids (2007_000027) as text, objects that id and their number.

    A folder VOC20xx has VOC's 20 classes; other folders have those of class_names.txt, or the names in the split.
    Only `options.known` has an effect. Raises ValueError or OSError, with the file and what is wrong in it.
    """
    chosen = _splits(folder).get(split)
    if chosen is None:
        raise FileNotFoundError(f"{folder} has no split {split!r} in VOC's layout")
    warnings = Warnings(chosen.file)
    ids = chosen.ids(warnings)
    class_names = _class_names(chosen, warnings)
    names = images_in(chosen.images)
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    without: list[str] = []
    damaged: list[str] = []
    for one in ids:
        described = _described(chosen, one, warnings, damaged)
        objects = _objects(chosen, one, described, class_names, warnings)
        if objects is None:
            without.append(one)
            continue
        found += objects
        if described is not None and described.objects and not objects:
            warnings.all_skipped([one])
        size = None if described is None else described.size
        written = names.get(one) or (described.file_name if described else "") or f"{one}.jpg"
        entry: RawEntry = {"id": one, "file_name": (chosen.images / written).relative_to(folder).as_posix()}
        images.append(entry | ({} if size is None else {"height": size[0], "width": size[1]}))
    _report_missing(without, ids, chosen, warnings, damaged)
    own = {str(annotation["category"]) for annotation in found}
    raw = named_tables(
        file=chosen.file,
        root=folder,
        folders=(folder, chosen.images),
        images=images,
        annotations=found,
        names=CLASSES if chosen.official and own <= set(CLASSES) else list(dict.fromkeys(class_names[1:])),
        metric=chosen.metric,
    )
    return check_tables(raw, warnings, options.known)


def _splits(folder: Path) -> dict[str, _Split]:
    """The splits of a folder, by name."""
    years = [one for one in (*subfolders(folder), *subfolders(folder / "VOCdevkit")) if OFFICIAL.match(one.name)]
    roots = [folder] if _annotations_of(folder) else [one for one in years if _annotations_of(one)]
    found: dict[str, _Split] = {}
    for root in roots:
        year = f"_{root.name.removeprefix('VOC')}" if len(roots) > 1 else ""
        found |= {name + year: one for name, one in _lists(root).items()}
    return found or _beside_images(folder)


def _lists(root: Path) -> dict[str, _Split]:
    """The splits of one VOC folder: those with lists, else all of its XML files."""
    annotations, images = _annotations_of(root) or root / "Annotations", root / "JPEGImages"
    year = OFFICIAL.match(root.resolve().name)
    metric: MetricName = "coco"
    if year is not None:
        metric = "voc2007" if int(year["year"]) <= LAST_11_POINT_YEAR else "voc2012"
    listed = partial(_Split, annotations=annotations, images=images, metric=metric, official=year is not None)
    main = {file.stem: file for file in _list_files(root / "ImageSets" / "Main", root / "ImageSets")}
    found = {name: listed(file=file) for name, file in main.items()}
    if (root / "SegmentationObject").is_dir():
        for file in _list_files(root / "ImageSets" / "Segmentation"):
            name = f"{file.stem}{SEGMENTATION if main else ''}"
            found[name] = listed(file=file, masks=root)
    if not found and next(annotations.glob("*.xml"), None) is not None:
        places = [place for place in subfolders(root) if place.name.lower() in ("jpegimages", "images")]
        found[ALL] = _Split(file=annotations, annotations=annotations, images=places[0] if places else root)
    return found


def _annotations_of(root: Path) -> Path | None:
    """The folder Annotations of a data set, or, for other tools, annotations with XML files."""
    for place in subfolders(root):
        if place.name == "Annotations" or (place.name.lower() == "annotations" and _holds_voc(place)):
            return place
    return None


def _list_files(*folders: Path) -> list[Path]:
    """The lists of images in the first folder that has some; the lists of one class (cat_train.txt) are not splits."""
    for folder in folders:
        found = [file for file in sorted(folder.glob("*.txt")) if file.is_file() and not _is_of_class(file)]
        if found:
            return found
    return []


def _is_of_class(file: Path) -> bool:
    """Whether a list has a second column, which says whether the image has a class (1, 0 or -1)."""
    if "_" not in file.stem:
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        return len(next((line.split() for line in lines if line.strip()), [])) == 2


def _beside_images(folder: Path) -> dict[str, _Split]:
    """Subfolders with XML files beside their images (Roboflow), and the folder itself as "all" (LabelImg)."""
    places = {ALL: folder} | {one.name: one for one in subfolders(folder)}
    return {
        name: _Split(file=place, annotations=place, images=place) for name, place in places.items() if _holds_voc(place)
    }


def _holds_voc(place: Path) -> bool:
    """Whether the first XML file in a folder has VOC's root element."""
    first = min(place.glob("*.xml"), default=None)
    if first is None or not first.is_file():
        return False
    with first.open("rb") as file:
        return b"<annotation" in file.read(4096)


def _described(split: _Split, image_id: str, warnings: Warnings, damaged: list[str]) -> VocImage | None:
    """The XML of an image; None if there is no file or, with a warning, if it cannot be read.

    The error is added to `damaged`.
    """
    file = split.annotations / f"{image_id}.xml"
    if not file.is_file():
        return None
    try:
        return read_voc_image(file, from_one=split.official)
    except ValueError as error:
        damaged.append(str(error))
        damage = "damaged, too large, not VOC's, or with a document type"
        what = f"an XML file that is {damage if file.stat().st_size else 'empty (0 bytes)'}"
        warnings.add(what, "not used", [image_id], "image", kind="unreadable-file")
        return None


def _objects(
    split: _Split, image_id: str, described: VocImage | None, class_names: Sequence[str], warnings: Warnings
) -> list[RawEntry] | None:
    """The objects of an image; None if its XML file, or its image of instances, is missing or damaged."""
    if split.masks is None:
        return None if described is None else list(_boxes(image_id, described, warnings))
    try:
        ids = read_ids(split.masks / "SegmentationObject" / f"{image_id}.png")
    except (ValueError, OSError):  # also ImageError
        return None
    return list(_instances(split.masks, image_id, ids, described, class_names, warnings))


def _boxes(image_id: str, described: VocImage, warnings: Warnings) -> Iterator[RawEntry]:
    """The objects of an XML file."""
    for number, one in enumerate(described.objects, start=1):
        name = f"{image_id}:{number}"
        if not one.name:
            warnings.add("no name", SKIPPED, [name], kind="no-class")
        elif one.box is None:
            warnings.add("no bndbox of finite numbers xmin <= xmax, ymin <= ymax", SKIPPED, [name], kind="bad-box")
        else:
            entry: RawEntry = {"id": name, "image_id": image_id, "category": one.name, "bbox": list(one.box)}
            yield entry | {"iscrowd": 0, "difficult": _difficult(one, name, warnings)}


def _difficult(described: VocObject, name: str, warnings: Warnings) -> int:
    """1 for an object that is marked difficult, else 0; with a warning if the mark is not clear."""
    if described.difficult is None:
        warnings.add("a value of difficult that is neither 0 nor 1", "counts as 0", [name])
    return int(bool(described.difficult))


def _instances(
    root: Path,
    image_id: str,
    objects: np.ndarray,
    described: VocImage | None,
    class_names: Sequence[str],
    warnings: Warnings,
) -> Iterator[RawEntry]:
    """The instances in `objects`, the ids (H, W) of SegmentationObject.

    The class of an instance is that of most of its pixels in SegmentationClass. Without that file, it is the class of
    the box in the XML with the largest IoU. The best box of the class also says whether the instance is difficult.
    """
    classes = _classes(root / "SegmentationClass" / f"{image_id}.png", objects, warnings)
    for number, pixels, mask in instances(objects, BACKGROUND):
        name = f"{image_id}:{number}"
        label = None if classes is None else _class_of(classes[pixels], class_names)
        if label is None and classes is not None:
            warnings.add("an instance without a class in SegmentationClass", SKIPPED, [name], kind="no-class")
            continue
        best = _best_object(pixels, objects.shape[1], described, label)
        label = label if best is None else best.name
        if label is None:
            what = f"an instance without SegmentationClass, and no box in its XML with an IoU of at least {MIN_IOU:g}"
            warnings.add(what, SKIPPED, [name], kind="no-class")
            continue
        entry: RawEntry = {"id": name, "image_id": image_id, "category": label, "iscrowd": 0, "segmentation": mask}
        yield entry | {"difficult": 0 if best is None else _difficult(best, name, warnings)}


def _class_of(numbers: np.ndarray, names: Sequence[str]) -> str | None:
    """The class of most pixels (P,) of an instance; None if no pixel has one of the classes `names`."""
    known = numbers[~np.isin(numbers, BACKGROUND)]
    most = int(np.bincount(known).argmax()) if known.size and known.max() < len(names) else 0
    return names[most] if most else None


def _classes(file: Path, objects: np.ndarray, warnings: Warnings) -> np.ndarray | None:
    """The classes (H * W,) of the pixels of `objects`; None if there is no readable file of that size."""
    if not file.is_file():
        return None
    try:
        classes = read_ids(file)
    except ValueError:  # also ImageError
        classes = np.zeros((0, 0))
    if classes.shape != objects.shape:
        what = "a SegmentationClass that is damaged, or of another size than SegmentationObject"
        warnings.add(what, "not used", [file.stem], "image", kind="unreadable-file")
        return None
    return classes.reshape(-1)


def _best_object(pixels: np.ndarray, width: int, described: VocImage | None, label: str | None) -> VocObject | None:
    """The object in the XML with the best IoU with an instance, at least MIN_IOU; None if there is none.

    `pixels` (P,) are the positions of the instance, row by row, in an image of that `width`. With a `label`, only
    objects of that class count.
    """
    rows, columns = np.divmod(pixels, width)
    x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    best, found = MIN_IOU, None
    for one in described.objects if described else []:
        if one.box is None or not one.name or (label is not None and one.name != label):
            continue
        x, y, w, h = one.box
        overlap = max(0.0, min(x + w, x2) - max(x, x1)) * max(0.0, min(y + h, y2) - max(y, y1))
        iou = overlap / (w * h + (x2 - x1) * (y2 - y1) - overlap)
        if iou >= best:
            best, found = iou, one
    return found


def _class_names(split: _Split, warnings: Warnings) -> Sequence[str]:
    """The classes by their number in SegmentationClass, background first; from class_names.txt if it exists."""
    file = split.annotations.parent / NAMES
    if split.annotations.name.lower() != "annotations" or not file.is_file():
        return ("background",) if split.masks is None else ("background", *CLASSES)
    names = lines_of(file)
    if repeated := [name for name, uses in Counter(names).items() if uses > 1]:
        warnings.note(f"{file} names {few(repeated)} more than once: these numbers are one class")
    return names


def _report_missing(
    without: Sequence[str], ids: Sequence[str], split: _Split, warnings: Warnings, damaged: Sequence[str]
) -> None:
    """Warn about images without a readable annotation file; refuse the split if no image has one."""
    kind, place = ("XML", split.annotations) if split.masks is None else ("PNG", split.masks / "SegmentationObject")
    if without and len(without) == len(ids) and damaged and split.masks is None:
        raise ValueError(
            f"{split.file} lists {counted(len(ids), 'image')}, none of them with a readable XML file: "
            f"{len(ids) - len(damaged)} missing, {len(damaged)} damaged; {damaged[0]}"
        )
    if without and len(without) == len(ids):
        raise FileNotFoundError(
            f"{split.file} lists {counted(len(ids), 'image')} ({few(ids)}), none of them with a readable {kind} file "
            f"in {place}: choose a split with annotations (VOC publishes none for test sets from 2008)"
        )
    warnings.add(f"no readable {kind} file in {place.name}", SKIPPED, without, "image", kind="unreadable-file")
