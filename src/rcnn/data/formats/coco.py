"""COCO's format: one JSON file per split with the tables images, annotations and categories.

Lin et al. 2014; https://cocodataset.org/#format-data. Roboflow, CVAT, Label Studio and LVIS write it too, each with its
own file names. LVIS v1 names its image files by URL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rcnn.data.checks.additions import VERIFIED
from rcnn.data.checks.check import check_tables
from rcnn.data.checks.tables import TABLES, MetricName, RawEntry, RawTables, Tables
from rcnn.data.formats.divided import later_edits
from rcnn.data.formats.files import FIFTYONE, FIFTYONE_IMAGES, PRUNED, annotation_file, find_splits, image_folders
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.unknown import tool_of
from rcnn.data.messages import Warnings, counted, excerpt, few
from rcnn.text_files import contains_key, read_json

NAME = "COCO"
KEYPOINTS = "annotations/person_keypoints_{split}.json"  # COCO's file with keypoints, of persons only
PATTERNS = (
    "annotations/instances_{split}.json",  # COCO, CVAT (instances_default.json)
    KEYPOINTS,
    "annotations/lvis_v1_{split}.json",
    "lvis_v1_{split}.json",
    "annotations/{split}.json",
    "{split}/_annotations.coco.json",  # Roboflow
    "{split}/annotations.json",
    "{split}/labels.json",  # FiftyOne: see `_holds`
    "_annotations.coco.json",  # Roboflow without splits, or the folder of one
    "result.json",  # Label Studio
    "annotations.json",
    "{split}.json",
    "annotations/image_info_{split}.json",  # COCO's test images, without annotations
)
SPLIT_FILES = ", ".join(pattern for pattern in PATTERNS if "{split}" in pattern)
# Starts of names that only files in COCO's format have; the content of other files is checked.
KNOWN_NAMES = ("instances_", "person_keypoints_", "lvis_v1_", "_annotations.coco", "image_info_")
# field of `info`: the metric of the data set that `rcnn data split` or `rcnn data check --fix` copied, if it is VOC's
METRIC = "metric"
VOC_METRICS: Mapping[str, MetricName] = {"voc2007": "voc2007", "voc2012": "voc2012"}
KNOWN_METRICS: Mapping[str, MetricName] = {"coco": "coco", **VOC_METRICS}  # that METRIC can name
# field of the annotations in other files of COCO -> what these files contain
OTHER_FILES = {"caption": "captions", "segments_info": "panoptic segmentations"}


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the splits in `folder`; `annotations` is the pattern of their files, if it is not a usual one."""
    return find_splits(folder, _patterns(annotations), partial(_holds, folder, annotations))


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has a COCO file of `split`."""
    file = annotation_file(folder, split, _patterns(annotations))
    return file is not None and (not file.is_file() or _holds(folder, annotations, file))


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split. Raises ValueError or OSError, with the file and what is wrong in it.

    Where both of COCO's files exist, `options.keypoints` reads person_keypoints_SPLIT.json.
    """
    file = annotation_file(folder, split, _patterns(options.annotations, options.keypoints))
    if file is None:
        raise FileNotFoundError(f"{folder} has no COCO annotation file of split {split!r}")
    content, warnings = read_json(file), Warnings(file)
    tables = _tables(content, file)
    if isinstance(content, dict) and "annotations" not in content:
        warnings.note("there is no list annotations: the images are read as test images, without ground truth")
    names = [one.get("file_name") for one in tables["images"] if isinstance(one, dict)]
    if edits := later_edits(content, file, [name for name in names if isinstance(name, str)]):
        warnings.note(edits)
    if any(word in split for word in PRUNED):
        tables["annotations"] = _of_listed_images(tables, warnings)
    raw = RawTables(
        file=file,
        root=folder if options.images is None else options.images,
        folders=image_folders(file, folder, split, options.images),
        images=tables["images"],
        annotations=tables["annotations"],
        categories=tables["categories"],
        takes_images=True,
        optional_files=options.optional_files and options.images is None,
        relative_boxes=options.relative_boxes,
        metric=_metric(content, tables["images"], warnings),
    )
    return check_tables(raw, warnings, options.known)


def _metric(content: object, images: Sequence[RawEntry], warnings: Warnings) -> MetricName:
    """The default metric of a file: LVIS', that of the VOC data set that rcnn copied, or COCO's."""
    default: MetricName = "lvis" if _is_federated(images) else "coco"
    about = content.get("info") if isinstance(content, dict) else None
    named = about.get(METRIC) if isinstance(about, dict) else None
    known: Mapping[str, MetricName] = {"lvis": "lvis"} if default == "lvis" else KNOWN_METRICS
    if isinstance(named, str) and named in known:
        return known[named]
    if named is not None:
        what = f"the value {excerpt(named)}, expected one of {', '.join(known)}, or no such field"
        action = f"the metric of {default.upper()} is used"
        warnings.add(what, action, [f"info.{METRIC}"], "field")
    return default


def _is_federated(images: Sequence[RawEntry]) -> bool:
    """Whether the images list the classes that were verified, as in LVIS, whatever the name of the file."""
    return bool(images) and all(isinstance(image, dict) and image.keys() >= set(VERIFIED) for image in images)


def _tables(data: object, file: Path) -> dict[str, list[RawEntry]]:
    """The three tables of a file. Raises ValueError if one is missing, or if it is another of COCO's files."""
    tables = {name: data[name] for name in TABLES if isinstance(data, dict) and isinstance(data.get(name), list)}
    first = tables.get("annotations", [None])[:1]
    for field, what in OTHER_FILES.items():
        if first and isinstance(first[0], dict) and field in first[0]:
            raise ValueError(
                f"{file} has {what}, not objects with boxes or outlines: expected a file such as instances_val2017.json"
            )
    if isinstance(data, dict) and "annotations" not in data and {"images", "categories"} <= tables.keys():
        return {**tables, "annotations": []}  # test images without ground truth
    if len(tables) < len(TABLES):
        if tool := tool_of(data):
            raise ValueError(f"{file} is {tool}")
        if isinstance(data, dict) and {"shapes", "imagePath"} <= data.keys():
            raise ValueError(f"{file} is a labelme file of one image: give the folder that contains it, {file.parent}")
        missing = ", ".join(name for name in TABLES if name not in tables)
        kind = "null" if data is None else f"a {type(data).__name__}"
        holds = few(sorted(map(str, data))) or "nothing" if isinstance(data, dict) else kind
        raise ValueError(
            f"{file} is not a COCO annotation file: it has no list {missing} (it contains {holds}); expected an object "
            "with images, annotations and categories, or a VIA export"
        )
    return tables


def _of_listed_images(tables: dict[str, list[RawEntry]], warnings: Warnings) -> list[RawEntry]:
    """The annotations of the listed images: the tool that makes such files removes images, not their annotations."""
    ids = [image.get("id") for image in tables["images"] if isinstance(image, dict)]
    known = {one for one in ids if isinstance(one, (int, str))}
    owners = [one.get("image_id") if isinstance(one, dict) else None for one in tables["annotations"]]
    pairs = zip(tables["annotations"], owners, strict=True)
    kept = [one for one, owner in pairs if not isinstance(owner, (int, str)) or owner in known]
    if left := len(tables["annotations"]) - len(kept):
        verb = "is" if left == 1 else "are"
        warnings.note(f"{counted(left, 'annotation')} of images that were removed {verb} not used")
    return kept


def _patterns(annotations: str, keypoints: bool = False) -> Sequence[str]:
    if annotations:
        return (annotations,)
    return (KEYPOINTS, *PATTERNS) if keypoints else PATTERNS


def _holds(folder: Path, annotations: str, file: Path) -> bool:
    """Whether a file is COCO's, and of a split of `folder`: FiftyOne's file in a subfolder has its images beside it.

    Without them, it may be a copy of the annotations in a data set of another format.
    """
    is_copy = file.name == FIFTYONE and file.parent not in (folder, folder / "annotations")
    if is_copy and not annotations and not (file.parent / FIFTYONE_IMAGES).is_dir():
        return False
    return _holds_coco(file)


def _holds_coco(file: Path) -> bool:
    """Whether a file contains the names of COCO's tables; it is not parsed."""
    if file.name.startswith(KNOWN_NAMES):
        return True
    content = file.read_bytes()
    return all(contains_key(content, word) for word in TABLES)
