"""Pascal VOC (Everingham et al. 2010): boxes in an XML file per image, and instances in images of ids.

| set | list of images | objects |
|---|---|---|
| boxes | ImageSets/Main/SPLIT.txt | Annotations/ID.xml |
| instances (`SPLIT_segmentation`) | ImageSets/Segmentation/SPLIT.txt | SegmentationObject/ID.png; 255: border |
| XML of other tools | all files of a folder | ID.xml in Annotations/, or beside the image |
| instances without XML (voc_masks.py) | ImageSets/Segmentation/SPLIT.txt, or all files | SegmentationObject/ |

The folder may contain VOC2007 or VOC2012, or be one of them. With several, the splits are trainval_2007,
trainval_2012, ... Objects that are marked difficult are not trained on.

A folder VOC20xx is VOC's own: it has VOC's 20 classes, unless its XML files name others, VOC's metric, and boxes that
count pixels from 1. Other folders come from other tools: they have classes by name, COCO's metric, and corners in
pixels from 0 (see voc_xml.py). The numbers in SegmentationClass are those of VOC's classes in VOC's own folders only.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.tables import MetricName, RawEntry, Tables
from rcnn.data.folders import first_files, images_in, subfolders
from rcnn.data.formats.files import ALL, visible
from rcnn.data.formats.many_files import clean_name, named_tables, note_same_names
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.voc_masks import (
    CLASS_MAPS,
    CLASS_NAMES,
    LABELMAP,
    OBJECT_MAPS,
    ClassNames,
    class_names,
    holds_instances,
    map_file,
    mask_ids,
    read_instances,
    warn_of_unknown,
)
from rcnn.data.formats.voc_xml import LABELME, PROBED_BYTES, VocImage, difficult, read_voc_image
from rcnn.data.messages import SKIPPED, Warnings, counted, few
from rcnn.text_files import lines_of

NAME = "Pascal VOC"
SPLIT_FILES = "ImageSets/Main/{split}.txt, ImageSets/Segmentation/{split}.txt, {split}/ with XML files"
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
OFFICIAL = re.compile(r"VOC(?P<year>20\d\d)")  # start of the name of VOC's own folders
ROOT = re.compile(rb"<annotation[\s/>]")  # VOC's root element; CVAT's own XML has <annotations>
LAST_11_POINT_YEAR = 2009  # from 2010 on, AP is the area under the curve
SEGMENTATION = "_segmentation"  # end of the names of splits with instances, where there are splits with boxes too
# a line of a list: a name in quotes (of CVAT, if it has spaces), or a name and whether the image has a class
LISTED = re.compile(r'"([^"]+)".*|(\S+)\s+-?[01]')
FLAGGED = re.compile(r".+\s-?[01]")  # the same for names with spaces, where it is less certain
LOOKED_AT = 100  # lines of a list, to learn whether it is one of a class


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
            return mask_ids(self.masks) if self.masks else [file.stem for file in visible(self.file.glob("*.xml"))]
        names = [self._listed_name(line) for line in lines_of(self.file)]
        uses = Counter(names)
        warnings.add("more than one line", "used once", [name for name in uses if uses[name] > 1], "image")
        return list(uses)

    def _listed_name(self, line: str) -> str:
        """The name of the image in a line of a list; a name of two words is one if it has an XML file or instances."""
        match = LISTED.fullmatch(line)
        if match is None or (match[2] and self._is_annotated(line)):
            return line
        return match[1] or match[2]

    def _is_annotated(self, image_id: str) -> bool:
        has_instances = self.masks is not None and map_file(self.masks, OBJECT_MAPS, image_id) is not None
        return has_instances or os.path.isfile(self.annotations / f"{image_id}.xml")  # of a line of any length


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the lists in ImageSets, of the subfolders with XML files, or "all"."""
    return set() if annotations else set(_splits(folder))


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has `split` in VOC's layout."""
    return split in splits(folder, annotations)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. Images have VOC's ids (2007_000027) as text, objects that id and their number.

    The classes are those of class_names.txt or labelmap.txt; else VOC's 20 in a folder VOC20xx with no other names;
    else the names in the split. Only `options.known` has an effect. Raises ValueError or OSError, with the file and
    what is wrong in it.
    """
    chosen = _splits(folder).get(split)
    if chosen is None:
        raise FileNotFoundError(f"{folder} has no split {split!r} in VOC's layout")
    warnings = Warnings(chosen.file)
    ids = chosen.ids(warnings)
    names = images_in(chosen.images)
    images: list[RawEntry] = []
    found: list[RawEntry] = []
    without: list[str] = []
    damaged: dict[str, str] = {}
    every = {one: _described(chosen, one, warnings, damaged) for one in ids}
    classes = _classes_of(chosen, {each.name for one in every.values() if one for each in one.objects}, warnings)
    _report_second(chosen, ids, warnings)
    if names:
        note_same_names(chosen.images, warnings)
    unknown: dict[int, list[str]] = {}
    for one, described in every.items():
        objects = _objects(chosen, one, described, classes, warnings, unknown)
        if objects is None:
            without.append(one)
            continue
        found += objects
        size = None if described is None else described.size
        written = names.get(one) or (described.file_name if described else "") or f"{one}.jpg"
        path = chosen.images / written  # the XML may have an absolute path, which is checked as in other formats
        file_name = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else written
        entry: RawEntry = {"id": one, "file_name": file_name}
        images.append(entry | ({} if size is None else {"height": size[0], "width": size[1]}))
    warn_of_unknown(unknown, classes, warnings)
    _report_missing(without, ids, chosen, warnings, damaged)
    raw = named_tables(
        file=chosen.file,
        root=folder,
        folders=(folder, chosen.images),
        images=images,
        annotations=found,
        names=classes.names,
        metric=chosen.metric,
    )
    return check_tables(raw, warnings, options.known)


def _splits(folder: Path) -> dict[str, _Split]:
    """The splits of a folder, by name."""
    years = [one for one in (*subfolders(folder), *subfolders(folder / "VOCdevkit")) if OFFICIAL.match(one.name)]
    roots = [folder] if _is_voc(folder) else [one for one in years if _is_voc(one)]
    found: dict[str, _Split] = {}
    for root in roots:
        year = f"_{root.name.removeprefix('VOC')}" if len(roots) > 1 else ""
        found |= {name + year: one for name, one in _lists(root).items()}
    return found or _beside_images(folder)


def _is_voc(root: Path) -> bool:
    return _annotations_of(root) is not None or holds_instances(root)


def _lists(root: Path) -> dict[str, _Split]:
    """The splits of one VOC folder: those with lists, else all of its XML files, else all of its instances."""
    annotations = _annotations_of(root)
    year = OFFICIAL.match(root.resolve().name)
    metric: MetricName = "coco"
    if year is not None:
        metric = "voc2007" if int(year["year"]) <= LAST_11_POINT_YEAR else "voc2012"
    places = [place for place in subfolders(root) if place.name.lower() in ("jpegimages", "images")]
    images = places[0] if places else root if images_in(root) else root / "JPEGImages"
    xml = annotations or root / "Annotations"
    listed = partial(_Split, annotations=xml, images=images, metric=metric, official=year is not None)
    found: dict[str, _Split] = {}
    if annotations is not None:
        lists = _list_files(root / "ImageSets" / "Main", root / "ImageSets")
        found = {file.stem: listed(file=file) for file in lists}
    ending = SEGMENTATION if found else ""
    if holds_instances(root):
        for file in _list_files(root / "ImageSets" / "Segmentation"):
            found[f"{file.stem}{ending}"] = listed(file=file, masks=root)
    if not found and annotations is not None and first_files(annotations, ".xml", 1):
        found[ALL] = listed(file=annotations)
    if not found and mask_ids(root):
        found[ALL] = listed(file=root, masks=root)
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
        found = [file for file in visible(folder.glob("*.txt")) if file.is_file() and not _is_of_class(file)]
        if found:
            return found
    return []


def _is_of_class(file: Path) -> bool:
    """Whether a list CLASS_SPLIT.txt says which images have a class, in a second column (1, 0 or -1).

    A name may have spaces: then every line has to end with such a number, and there has to be SPLIT.txt, as for a list
    without lines.
    """
    if "_" not in file.stem:
        return False
    with file.open(encoding="utf-8", errors="replace") as opened:
        lines = [line.strip() for line in islice(opened, LOOKED_AT) if line.strip()]
    match = LISTED.fullmatch(lines[0]) if lines else None
    if match is not None and match[2] is not None:
        return True
    words = file.stem.split("_")
    has_split = any(file.with_name("_".join(words[at:]) + ".txt").is_file() for at in range(1, len(words)))
    return has_split and all(FLAGGED.fullmatch(line) for line in lines)


def _beside_images(folder: Path) -> dict[str, _Split]:
    """Subfolders with XML files beside their images (Roboflow), and the folder itself as "all" (LabelImg).

    A single subfolder of XML files without images is "all" too, if the images are in data/ (FiftyOne) or images/.
    """
    places = {ALL: folder} | {one.name: one for one in subfolders(folder)}
    found = {name: place for name, place in places.items() if _holds_voc(place)}
    images = next((folder / name for name in ("data", "images") if images_in(folder / name)), None)
    if len(found) == 1 and images is not None and not images_in(place := next(iter(found.values()))):
        return {ALL: _Split(file=place, annotations=place, images=images)}
    return {name: _Split(file=place, annotations=place, images=place) for name, place in found.items()}


def _holds_voc(place: Path) -> bool:
    """Whether the first XML file of a folder, by its name, has VOC's root element, and none of LabelMe's elements."""
    first = next(iter(first_files(place, ".xml", 1)), None)
    if first is None:
        return False
    with first.open("rb") as file:
        start = file.read(PROBED_BYTES)
    return ROOT.search(start) is not None and LABELME.search(start) is None


def _described(split: _Split, image_id: str, warnings: Warnings, damaged: dict[str, str]) -> VocImage | None:
    """The XML of an image; None if there is no file or, with a warning, if it cannot be read.

    The error is added to `damaged`, by the id of the image.
    """
    file = split.annotations / f"{image_id}.xml"
    if not os.path.isfile(file):  # False for a name that is too long
        return None
    try:
        image = read_voc_image(file, from_one=split.official)
    except ValueError as error:
        damaged[image_id] = str(error)
        damage = "damaged, too large, not VOC's, or with a document type"
        what = f"an XML file that is {damage if file.stat().st_size else 'empty (0 bytes)'}"
        action = SKIPPED if split.masks is None else "not used"
        warnings.add(what, action, [image_id], "image", kind="unreadable-file")
        return None
    objects = enumerate(image.objects, start=1)
    cleaned = [replace(one, name=clean_name(one.name, f"{image_id}:{number}", warnings)) for number, one in objects]
    return replace(image, objects=cleaned)


def _objects(
    split: _Split,
    image_id: str,
    described: VocImage | None,
    classes: ClassNames,
    warnings: Warnings,
    unknown: dict[int, list[str]],
) -> list[RawEntry] | None:
    """The objects of an image; None if its XML file, or its image of instances, is missing or damaged.

    `unknown` is that of `read_instances`.
    """
    if split.masks is not None:
        return read_instances(split.masks, image_id, described, classes, warnings, unknown)
    if described is None:
        return None
    found = list(_boxes(image_id, described, classes, warnings))
    warnings.all_skipped([image_id] if described.objects and not found else [])
    return found


def _boxes(image_id: str, described: VocImage, classes: ClassNames, warnings: Warnings) -> Iterator[RawEntry]:
    """The objects of an XML file."""
    for number, one in enumerate(described.objects, start=1):
        name = f"{image_id}:{number}"
        if not one.name:
            warnings.add("no name", SKIPPED, [name], kind="no-class")
        elif one.box is None:
            warnings.add("no bndbox of finite numbers xmin <= xmax, ymin <= ymax", SKIPPED, [name], kind="bad-box")
        elif classes.lists(one.name, name, warnings):
            entry: RawEntry = {"id": name, "image_id": image_id, "category": one.name, "bbox": list(one.box)}
            yield entry | {"iscrowd": 0, "difficult": difficult(one, name, warnings)}


def _classes_of(split: _Split, named: set[str], warnings: Warnings) -> ClassNames:
    """The classes that a file beside the annotations lists; else VOC's, or, in other folders, those in XML files.

    `named` are the names in the XML files of the split. Raises ValueError if nothing names the classes of instances.
    """
    names = named - {""}
    root = split.masks or split.annotations.parent
    beside_images = split.masks is None and split.annotations.name.lower() != "annotations"
    listed = None if beside_images else class_names(root, warnings)
    if listed is not None:
        return listed
    if split.official and names <= set(CLASSES):
        return ClassNames.numbered(CLASSES)
    if split.masks is not None and not names:
        raise ValueError(
            f"{root / OBJECT_MAPS} has instances, but nothing names their classes; expected {root / CLASS_NAMES} with "
            f"one name per line, first that of the background, or CVAT's {LABELMAP}. Pascal VOC's own images of ids "
            "need a folder with VOC's name, e.g. VOC2012"
        )
    if split.masks is not None:
        warnings.note(
            f"{CLASS_MAPS} is not used, because there is no {CLASS_NAMES} or {LABELMAP} with the names of its classes: "
            "instances have the classes of the boxes in the XML files"
        )
    return ClassNames(names=sorted(names), by_value={})


def _report_second(split: _Split, ids: Sequence[str], warnings: Warnings) -> None:
    """Report images with a second XML file: in a folder inside that of the XML files, beside it, or with the images."""
    chosen = split.annotations
    if not chosen.is_dir():
        return
    beside = {split.images, chosen.parent} if chosen.name.lower() == "annotations" else set[Path]()
    for place in sorted({*subfolders(chosen), *beside} - {chosen}):
        second = {file.stem for file in visible(place.glob("*.xml"))}
        warnings.second_labels(place, chosen, [one for one in ids if one in second])


def _report_missing(
    without: Sequence[str], ids: Sequence[str], split: _Split, warnings: Warnings, damaged: Mapping[str, str]
) -> None:
    """Warn about images without a readable annotation file; refuse the split if no image has one."""
    kind, place = ("XML", split.annotations) if split.masks is None else ("PNG or NPY", split.masks / OBJECT_MAPS)
    if without and len(without) == len(ids) and damaged and split.masks is None:
        raise ValueError(
            f"{split.file} lists {counted(len(ids), 'image')}, none of them with a readable XML file: "
            f"{len(ids) - len(damaged)} missing, {len(damaged)} damaged; {next(iter(damaged.values()))}"
        )
    if without and len(without) == len(ids):
        raise FileNotFoundError(
            f"{split.file} lists {counted(len(ids), 'image')} ({few(ids)}), none of them with a readable {kind} file "
            f"in {place}: choose a split with annotations (VOC publishes none for test sets from 2008)"
        )
    if split.masks is None:  # a damaged XML file is reported already
        without = [one for one in without if one not in damaged]
    warnings.add(f"no readable {kind} file in {place.name}", SKIPPED, without, "image", kind="unreadable-file")
