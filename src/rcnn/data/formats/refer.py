"""REFER: RefCOCO, RefCOCO+ and RefCOCOg (Yu et al. 2016, Mao et al. 2016): COCO's objects with referring expressions.

A folder such as refcoco/ has instances.json (COCO's tables) and refs(unc).p, refs(google).p or refs(umd).p, each with
splits of its own (https://github.com/lichengunc/refer). If a folder has several of these files, names of splits get a
suffix: testA_unc, or testA_refcoco_unc in the folder above (refcocoplus for refcoco+, since + joins splits).

A split has the images that its expressions are about, with all of their objects; the objects of its expressions have
`expressions`. The pickles are read without running what they contain.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from rcnn.data.checks.check import check_tables
from rcnn.data.checks.tables import TABLES, Id, RawEntry, RawTables, Tables
from rcnn.data.folders import subfolders
from rcnn.data.formats.options import ReadOptions
from rcnn.data.formats.plain_pickle import read_plain_pickle
from rcnn.data.messages import SKIPPED, Warnings, brief, counted, excerpt
from rcnn.text_files import read_json

NAME = "REFER"
REFS = re.compile(r"refs\((?P<author>\w+)\)\.p")
SPLIT_FILES = "references with the split {split} in refs(*).p"
# where images may be, in the folder of instances.json or up to two folders above
IMAGES = ("images/mscoco/images/train2014", "images/train2014", "train2014", "images/saiapr_tc-12")
MAX_EXPRESSIONS = 10_000_000  # of a file; RefCOCO has 142,210


@dataclass(frozen=True)
class Reference:
    """Expressions about one object."""

    image_id: Id
    annotation_id: Id
    split: str
    expressions: tuple[str, ...]


def splits(folder: Path, annotations: str = "") -> set[str]:
    """Names of the splits of all refs(*).p files. A file that cannot be read has the split "train"."""
    if annotations:
        return set()
    return {split + ending for ending, file in _files(folder).items() for split in _split_names(file)}


def recognises(folder: Path, split: str, annotations: str = "") -> bool:
    """Whether `folder` has refs(*).p with `split`."""
    return not annotations and bool(_files(folder)) and split in splits(folder)


def read(folder: Path, split: str, options: ReadOptions) -> Tables:
    """The checked tables of a split, with COCO's ids. Only `options.known` has an effect.

    Raises ValueError or OSError, with the file and what is wrong in it.
    """
    for ending, file in _files(folder).items():
        if split.endswith(ending) and split.removesuffix(ending) in _split_names(file):
            return check_tables(*_raw_tables(file, split.removesuffix(ending)), options.known)
    raise FileNotFoundError(f"{folder} has no split {split!r} in REFER's layout")


def _files(folder: Path) -> dict[str, Path]:
    """Suffix of the names of splits -> refs(*).p file with these splits.

    In refcoco/ itself: {"_google": refs(google).p, "_unc": refs(unc).p}, or {"": refs(unc).p} if there is no other. In
    the folder above: {"_refcoco_google": refcoco/refs(google).p, ..., "_refcocoplus": refcoco+/refs(unc).p}.
    """
    if refs := _refs_in(folder):
        return {f"_{author}" if len(refs) > 1 else "": file for author, file in refs.items()}
    data_sets = {inner.name.replace("+", "plus"): found for inner in subfolders(folder) if (found := _refs_in(inner))}
    files: dict[str, Path] = {}
    for name, refs in data_sets.items():
        data_set = f"_{name}" if len(data_sets) > 1 else ""
        for author, file in refs.items():
            files[data_set + (f"_{author}" if len(refs) > 1 else "")] = file
    return files


def _refs_in(folder: Path) -> dict[str, Path]:
    """Author of the splits, e.g. unc -> refs(*).p file of one data set."""
    if not (folder / "instances.json").is_file():
        return {}
    named = {file: REFS.fullmatch(file.name) for file in sorted(folder.glob("refs(*).p"))}
    return {match["author"]: file for file, match in named.items() if match is not None}


def _split_names(file: Path) -> set[str]:
    try:
        references, _ = read_references(file)
    except (ValueError, OSError):
        return {"train"}  # reading this split raises the error
    return {name for reference in references for name in _names_of(reference.split)}


def _names_of(split: str) -> Iterator[str]:
    """The splits that a reference belongs to: testAB is in testA and testB, and all of these in test."""
    yield split
    if split.startswith("test"):
        yield "test"
        yield from (f"test{letter}" for letter in split.removeprefix("test"))


def read_references(file: Path) -> tuple[tuple[Reference, ...], tuple[str, ...]]:
    """The references in a refs(*).p file, and the ref_ids of those that cannot be used.

    Raises ValueError for a file that is damaged or of another kind, OSError if it cannot be read.
    """
    status = file.stat()
    return _read_file(file, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4)
def _read_file(file: Path, changed: int, size: int) -> tuple[tuple[Reference, ...], tuple[str, ...]]:
    """Like `read_references`; with the time of change and size of the file, so that a changed file is read again."""
    content = read_plain_pickle(file)
    if not isinstance(content, list) or not content:
        raise ValueError(f"{file} is not a file of REFER: expected a list of references, got {excerpt(content)}")
    usable: list[Reference] = []
    unusable: list[str] = []
    count = 0
    for position, entry in enumerate(content):
        reference = _reference(entry)
        count += 0 if reference is None else len(reference.expressions)
        if count > MAX_EXPRESSIONS:  # a list that is referred to many times takes little space in the file
            raise ValueError(f"{file} has more than {MAX_EXPRESSIONS:,} expressions: download it again")
        if reference is None:
            unusable.append(str(entry.get("ref_id", position) if isinstance(entry, dict) else position)[:20])
        else:
            usable.append(reference)
    return tuple(usable), tuple(unusable)


def _reference(entry: object) -> Reference | None:
    """A reference with its sentences; None if its ids or its split are not valid."""
    if not isinstance(entry, dict):
        return None
    image, annotation, split = entry.get("image_id"), entry.get("ann_id"), entry.get("split")
    sentences = entry.get("sentences")
    has_ids = type(image) is int and type(annotation) is int
    if not has_ids or not isinstance(split, str) or not split or not isinstance(sentences, list):
        return None
    texts = [sentence.get("sent") or sentence.get("raw") for sentence in sentences if isinstance(sentence, dict)]
    return Reference(image, annotation, brief(split), tuple(text for text in texts if isinstance(text, str)))


def _raw_tables(file: Path, split: str) -> tuple[RawTables, Warnings]:
    """The tables with the images of the expressions of a split."""
    warnings = Warnings(file)
    references, unusable = read_references(file)
    warnings.add("no usable ids, split or sentences", SKIPPED, unusable, "reference", kind="bad-expression")
    expressions: defaultdict[Id, list[str]] = defaultdict(list)
    used: set[Id] = set()
    for reference in references:
        if split in _names_of(reference.split):
            expressions[reference.annotation_id] += reference.expressions
            used.add(reference.image_id)
    _note_shared_images(references, split, used, warnings)
    tables = _instances(file.parent / "instances.json")
    known = {entry.get("id") for entry in tables["annotations"] if isinstance(entry.get("id"), int)}
    lost = [annotation_id for annotation_id in expressions if annotation_id not in known]
    warnings.add("expressions, but no entry in instances.json", SKIPPED, lost, kind="bad-expression")
    annotations = [
        entry | ({"expressions": expressions[entry["id"]]} if entry.get("id") in expressions else {})
        for entry in tables["annotations"]
        if entry.get("image_id") in used
    ]
    images = [entry for entry in tables["images"] if entry.get("id") in used]
    if len(images) < len(used):
        absent = sorted(used - {entry["id"] for entry in images}, key=str)
        warnings.add("expressions, but no entry in instances.json", SKIPPED, absent, "image", kind="bad-expression")
    root, folders = _image_folders(file.parent)
    raw = RawTables(
        file=file, root=root, folders=folders, images=images, annotations=annotations, categories=tables["categories"]
    )
    return raw, warnings


def _note_shared_images(references: Sequence[Reference], split: str, used: set[Id], warnings: Warnings) -> None:
    """Note the images that training and evaluation share: the splits of refs(google).p divide objects, not images."""
    in_training = split == "train"
    others = {reference.image_id for reference in references if (reference.split == "train") != in_training}
    if shared := len(others & used):
        which = "other splits" if in_training else "split train"
        warnings.note(
            f"{counted(shared, 'image')} of split {split} {'is' if shared == 1 else 'are'} also in {which}, with other "
            "objects: do not train and evaluate on these splits, except for referring expressions"
        )


def _instances(file: Path) -> dict[str, list[RawEntry]]:
    """The tables of instances.json. Raises ValueError unless ids are hashable; other fields are checked later."""
    data = read_json(file)
    tables: dict[str, list[RawEntry]] = {}
    for name in TABLES:
        table = data.get(name) if isinstance(data, dict) else None
        if not isinstance(table, list) or not all(isinstance(entry, dict) for entry in table):
            raise ValueError(f"{file} has no list {name} of entries: it is not REFER's instances.json")
        tables[name] = table
    fields = {"images": ("id",), "annotations": ("id", "image_id")}
    for name, needed in fields.items():
        for entry in tables[name]:
            if any(isinstance(entry.get(field), (list, dict)) for field in needed):
                raise ValueError(
                    f"{file}: an entry of {name} has an id that is not an integer: {excerpt(entry)}; download it again"
                )
    return tables


def _image_folders(folder: Path) -> tuple[Path, tuple[Path, ...]]:
    """The folder that all images must be in, and where they may be: in the data set's folder or up to two above it."""
    for root in (folder, folder.parent, folder.parent.parent):
        if folders := tuple(root / name for name in IMAGES if (root / name).is_dir()):
            return root, folders
    return folder, (folder / "images", folder)
