"""Chooses the images of a data set: a split, several splits as one set, or the images that a text file lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from rcnn.data.checks.check import KnownImages
from rcnn.data.checks.tables import Tables
from rcnn.data.formats.files import ALL, is_one_file
from rcnn.data.formats.layouts import Location, read_split, splits_at
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.merging import merge, select_images
from rcnn.data.messages import SKIPPED, counted, few
from rcnn.text_files import lines_of, require_no_folder

# Names that papers use for sets of COCO 2014 (trainval35k has 35k of val2014's 40k images; Bell et al. 2016).
NAMED_SETS = {"trainval35k": "train2014+valminusminival2014"}
LIST_SUFFIX = ".txt"


@dataclass(frozen=True, kw_only=True)
class SplitPart:
    """One split, or those of its images that a text file lists."""

    split: str
    image_list: Path | None = None

    @property
    def name(self) -> str:
        """What the user would write as the split."""
        return self.split if self.image_list is None else f"{self.split}:{self.image_list}"

    def of(self, tables: Tables) -> Tables:
        """This part of the `tables` of the split. Raises ValueError for a list with images that it does not have."""
        return tables if self.image_list is None else select_listed(tables, [self.image_list])


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The parts of a data set that are used as one set. `read` reads them again, also in another process."""

    location: Location
    name: str
    parts: tuple[SplitPart, ...]

    def read(self, known: KnownImages | None = None) -> Tables:
        """The checked tables. For one whole split, `known` images are not searched for again."""
        if len(self.parts) == 1 and self.parts[0].image_list is None:
            return read_split(self.location, self.parts[0].split, known)
        parts: dict[str, list[SplitPart]] = {}  # by the split that they are of
        for part in self.parts:
            parts.setdefault(ALL if is_one_file(self.location.annotations) else part.split, []).append(part)
        return merge([self._together(of_split) for of_split in parts.values()], list(parts))

    def _together(self, parts: Sequence[SplitPart]) -> Tables:
        """The tables of a split, or of its images that the lists of `parts` name together."""
        tables = read_split(self.location, parts[0].split)
        lists = [part.image_list for part in parts if part.image_list is not None]
        return select_listed(tables, lists) if lists else tables


def select(location: Location, split: str) -> Selection:
    """The selection that `split` describes; if it is empty, the only split.

    Raises ValueError or OSError; the message says what is wrong and what to write.
    """
    if not split:
        known = splits_at(location)
        if len(known) > 1:
            raise ValueError(
                f"{location.folder} has the splits {', '.join(known)}; choose one with split (--split), or "
                f"several, e.g. {'+'.join(known[:2])}"
            )
        return Selection(location=location, name=known[0], parts=(SplitPart(split=known[0]),))
    if is_one_file(location.annotations) and not location.file_split:
        parts = _parts_of_file(location, split)
    else:
        words = [split] if _is_one(location, split) else [word.strip() for word in split.split("+")]
        parts = tuple(_part(location, part) for word in words for part in _expanded(location, word))
    if repeated := [part for part, uses in Counter(parts).items() if uses > 1]:
        twice = repeated[0].image_list or repeated[0].split
        raise ValueError(f"split={split} (--split) has {twice} twice; name each split or list once")
    whole = {part.split for part in parts if part.image_list is None}
    if inside := [part for part in parts if part.image_list is not None and part.split in whole]:
        raise ValueError(
            f"split={split} (--split) has {inside[0].split} twice: as a whole, and its images in "
            f"{inside[0].image_list}; leave one out"
        )
    return Selection(location=location, name=split, parts=parts)


def _expanded(location: Location, word: str) -> list[str]:
    """The splits that a name of papers stands for, unless the data set has a split of that name."""
    named = NAMED_SETS.get(word)
    return [word] if named is None or word in splits_at(location) else named.split("+")


def _is_one(location: Location, split: str) -> bool:
    """Whether `split` is the name of one split, or of a list of images, although it contains a +."""
    return "+" in split and (_is_one_list(location, split) or split in splits_at(location))


def _is_one_list(location: Location, split: str) -> bool:
    """Whether `split` is one list of images, "ids.txt" or "train:ids.txt"; its path may contain a +."""
    before, _, file = split.partition(":")
    lists = (split,) if "+" in before else (split, file)
    return split.endswith(LIST_SUFFIX) and any(_list_file(location, one) for one in lists)


def _list_file(location: Location, file: str) -> Path | None:
    """A list of images that the user names, in the working directory or in the folder of the data set."""
    return next((path for path in (Path(file), location.folder / file) if path.is_file()), None)


def _parts_of_file(location: Location, split: str) -> tuple[SplitPart, ...]:
    """The images of the only annotation file: all, with `split` as their name, or those of lists, "a.txt+b.txt"."""
    words = [split] if _is_one_list(location, split) else [word.strip() for word in split.split("+")]
    _require_named(words)
    whole = [word for word in words if not word.endswith(LIST_SUFFIX)]
    for word in whole:
        _require_no_colon(word)
    if len(whole) == len(words):
        return (SplitPart(split=split),)
    if whole:
        raise ValueError(
            f"split={split} (--split): {location.folder / location.annotations} is one file for all splits, so "
            f"{whole[0]} is all of its images; expected lists of images, e.g. a.txt+b.txt, or one name for all images"
        )
    return tuple(_list_of_file(location, word) for word in words)


def _list_of_file(location: Location, word: str) -> SplitPart:
    """The images of the only annotation file that a list names, "ids.txt", or "train:ids.txt" with a name for them."""
    split, colon, file = word.partition(":")
    image_list = _list_file(location, word)
    if image_list is None and colon:
        image_list = _list_file(location, file)
        return SplitPart(split=split, image_list=_require_list(location, file, image_list))
    return SplitPart(split=ALL, image_list=_require_list(location, word, image_list))


def _require_named(words: Sequence[str]) -> None:
    """Raise ValueError for an empty one of the names that are joined by +."""
    if not all(words):
        raise ValueError("an empty name between the + of split (--split); expected e.g. train+val")


def _require_no_colon(word: str) -> None:
    """Raise ValueError for "train:ids": a list of images without the suffix of one."""
    _, colon, file = word.partition(":")
    if colon:
        raise ValueError(
            f"split={word} (--split): expected a list of images with a name that ends in {LIST_SUFFIX}, got {file}; "
            "rename it"
        )


def _require_list(location: Location, file: str, found: Path | None) -> Path:
    """`found`, the list of images that the user names. Raises ValueError for a folder, FileNotFoundError for none."""
    if found is None:
        require_no_folder(Path(file), given=True)
        raise FileNotFoundError(
            f"{file} does not exist, neither in the working directory nor in {location.folder}; expected a text file "
            "with an image id or file name per line"
        )
    return found


def _part(location: Location, word: str) -> SplitPart:
    if not word.endswith(LIST_SUFFIX):
        before, colon, _ = word.partition(":")
        if colon and before in splits_at(location):
            _require_no_colon(word)
        _require_named([word])
        if location.file_split and word != location.file_split:
            raise ValueError(
                f"{location.folder / location.annotations} is one annotation file, so it has no split {word!r}; leave "
                "split (--split) out, or give the folder"
            )
        return SplitPart(split=word)
    split, colon, file = word.partition(":")
    known = splits_at(location)
    if not colon or split not in known:
        split, file = "", word
    image_list = _require_list(location, file, _list_file(location, file))
    return SplitPart(split=split or _split_of_list(location, known, image_list), image_list=image_list)


def _split_of_list(location: Location, known: Sequence[str], image_list: Path) -> str:
    """The only split with all of the listed images. Raises ValueError if none or several have them."""
    if len(known) == 1:
        return known[0]
    names = listed_names(image_list)
    found: list[str] = []
    refused: dict[str, tuple[float, Exception]] = {}  # the nearest split has the reason that is most likely of help
    for split in known:
        distance = len(names) - 0.5  # of a split that cannot be read: it is nearer than one without any of the names
        try:
            tables = read_split(location, split)
            distance = 0
            listed_indices(names, tables, image_list)
        except UnknownNamesError as error:
            refused[split] = error.count, error
        except (ValueError, OSError) as error:
            refused[split] = distance, error
        else:
            found.append(split)
    if len(found) == 1:
        return found[0]
    meant = f"say which split is meant, e.g. {known[0]}:{image_list}"
    if found:
        raise ValueError(f"{image_list}: the splits {', '.join(found)} each have all of its images; {meant}")
    nearest = min(known, key=lambda split: refused[split][0])
    raise ValueError(
        f"{image_list}: none of {', '.join(known)} has all of its images; {meant} ({nearest}: {refused[nearest][1]})"
    )


class UnknownNamesError(ValueError):
    """Names, `count` of them, that are not an id or file name of the images of a split."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


def listed_names(image_list: Path) -> list[str]:
    """The lines of a list of images, without blank lines and those that start with #. Raises ValueError for none."""
    names = [line for line in lines_of(image_list) if not line.startswith("#")]
    if not names:
        raise ValueError(f"{image_list} lists no images; expected an image id or file name per line")
    return names


def select_listed(tables: Tables, lists: Sequence[Path]) -> Tables:
    """The images of `tables` that the `lists` name, each once; a note counts the lines that name one again."""
    chosen: set[int] = set()
    notes: list[str] = []
    for one in lists:
        indices = listed_indices(listed_names(one), tables, one)
        if repeated := len(indices) - len(set(indices)):
            verb = "names" if repeated == 1 else "name"
            notes.append(f"{one}: {counted(repeated, 'line')} {verb} an image of an earlier line: it is used once")
        chosen.update(indices)
    selected = select_images(tables, sorted(chosen))
    return replace(selected, notes=(*selected.notes, *notes))


def skipped_names(tables: Tables) -> set[str]:
    """The ids, names and stems of the images that were skipped, with a warning: a list of images may contain them."""
    skipped = [finding.ids for finding in tables.findings if finding.noun == "image" and finding.action == SKIPPED]
    ids = {str(one) for ids in skipped for one in ids}  # formats without ids have file names or stems as ids
    paths = [PurePosixPath(name) for name in (*ids, *(name for _, name in tables.skipped))]
    return ids | {name for path in paths for name in (str(path), path.name, path.stem)}


def listed_indices(names: Sequence[str], tables: Tables, image_list: Path) -> list[int]:
    """The indices of the images with `names`, which are in the file `image_list`, in the order of the names.

    A name is an image id, a file name, or a file name without folder or without suffix. Images that were skipped when
    `tables` were read are left out. Raises ValueError for a name that is none of these, or that matches more than one
    image.
    """
    images, skipped = tables.images, skipped_names(tables)
    known: list[dict[str, list[int]]] = [{}, {}, {}, {}]
    for index, image in enumerate(images):
        path = PurePosixPath(image["file_name"])
        for table, name in zip(known, (str(image["id"]), str(path), path.name, path.stem), strict=True):
            table.setdefault(name, []).append(index)
    chosen: list[int] = []
    unknown: list[str] = []
    for name in names:
        found = next((table[name] for table in known[1:] if name in table), None)
        of_id = known[0].get(name)
        if of_id and found and found != of_id:
            by_id, by_name = images[of_id[0]], images[found[0]]
            raise ValueError(
                f"{image_list}: {name} is the id of {by_id['file_name']} and the name of {by_name['file_name']}; give "
                f"file names with their suffix, e.g. {by_id['file_name']}"
            )
        path = PurePosixPath(name.replace("\\", "/"))  # perhaps of another computer
        found = found or of_id or known[2].get(path.name)
        if found is None:
            forms = {name, path.name, path.stem if path.suffix.lower() in IMAGE_SUFFIXES else name}
            unknown += [] if forms & skipped else [name]
        elif len(found) > 1:
            raise ValueError(f"{image_list}: {name} is the name of {len(found)} images; give their ids or paths")
        else:
            chosen += found
    if unknown or not chosen:
        example = " or ".join(dict.fromkeys((str(images[0]["id"]), images[0]["file_name"])))
        raise UnknownNamesError(
            f"{image_list}: {few(unknown or names)}: not an id or file name of the {len(images)} images; expected e.g. "
            f"{example}",
            len(unknown or names),
        )
    return chosen
