"""The error for image files that an annotation file lists and that do not exist: says where such files are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from rcnn.data.checks.tables import RawTables
from rcnn.data.folders import walk
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import SAVE_IMAGES, MissingImagesError, close_to, counted, few

PREFIXED = re.compile(r"[0-9a-f]{8}-.+")  # the name of an uploaded image in Label Studio


def missing_images(
    found: Sequence[str | None], names: Sequence[str], raw: RawTables, unused: Sequence[str], *, search: bool
) -> MissingImagesError:
    """The error for images without a file; `found` has the path, and `names` the written name of each image.

    `unused` are the files in `raw.folders` that are of no image: a similar name is suggested. With `search`, files of
    the missing names are searched for in the whole data set, and their folders are named.
    """
    missing = [place for place, path in enumerate(found) if path is None]
    wanted = [names[place] for place in missing]
    where = few([str(folder) for folder in raw.folders])
    images = [name for name in unused if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES]
    similar = _similar(wanted, images)
    elsewhere = _elsewhere(wanted, found, raw) if search else ""
    one = len(missing) == 1
    if len(missing) == len(names):
        listed = f"{raw.file} lists {counted(len(names), 'image')} ({few(wanted)}"
        if elsewhere:
            return MissingImagesError(f"{listed}), none of them in {where}, {elsewhere}")
        found_instead = f"; the files there are {few(unused)}" if unused and not similar else ""
        correct = "" if _has_file_per_image(raw) else ", correct file_name in the file"
        by_option = ", or name their folder with images (--images)" if raw.takes_images else ""
        return MissingImagesError(
            f"{listed}{similar}), none of them in {where}{found_instead}: copy the images there{correct}{by_option}"
            f"{SAVE_IMAGES if _is_of_cvat(raw) else ''}"
        )
    is_are, them = ("is", "it") if one else ("are", "them")
    remove = (
        f"remove {'its annotation file' if one else 'their annotation files'}"
        if _has_file_per_image(raw)
        else f"remove {them} from the file"
    )
    more = f", {elsewhere}" if elsewhere else f"{similar}; copy {them} there, or {remove}"
    return MissingImagesError(
        f"{raw.file}: {len(missing)} of its {counted(len(names), 'image')} {is_are} not in {where}: "
        f"{few(wanted)}{more}",
        missing,
        f"{few(wanted[:1])}{similar} is not in {where}",
    )


def _is_of_cvat(raw: RawTables) -> bool:
    """Whether the file has the name of a split of CVAT, or is beside CVAT's names of classes."""
    return raw.file.stem.endswith("default") or os.path.isfile(raw.root / "labelmap.txt")


def _has_file_per_image(raw: RawTables) -> bool:
    """Whether every image has its own annotation file."""
    return raw.file.is_dir() or raw.file.suffix == ".txt"


def _similar(wanted: Sequence[str], images: Sequence[str]) -> str:
    """A suggestion for the first of the missing files `wanted` among the files `images`; empty if none is similar.

    If all of them are there with other suffixes, it is that. Names with other numbers are other images.
    """
    stems = {os.path.splitext(name)[0]: os.path.splitext(name)[1] for name in images}
    own = [os.path.splitext(_base(name))[0] for name in wanted]
    if all(PREFIXED.fullmatch(_base(name)) for name in wanted) and {_base(name)[9:] for name in wanted} <= set(images):
        return " (the files have these names without the 8 characters and - that Label Studio adds)"
    if all(stem in stems for stem in own):
        file = "the file has" if len(own) == 1 else "the files have"
        return f" ({file} the suffix {few(sorted({stems[stem] for stem in own}))})"
    numbers = _numbers(own[0])
    return close_to(_base(wanted[0]), [name for name in images if _numbers(os.path.splitext(name)[0]) == numbers])


def _numbers(name: str) -> list[int]:
    """The numbers in a name, e.g. 1 and 20 in street_01_20."""
    return [int(number) for number in re.findall(r"[0-9]+", name)]


def _elsewhere(wanted: Sequence[str], found: Sequence[str | None], raw: RawTables) -> str:
    """Where in the data set files of the names `wanted` are, and what to do; empty if there are none.

    They are not used by themselves: a file of the same name may be another image, e.g. of another split. The files in
    `found` belong to other images.
    """
    places: dict[str, list[Path]] = {name: [] for name in map(_base, wanted)}
    used = set(found)
    for folder, files in walk(raw.root):
        for name in places.keys() & set(files):
            if os.path.abspath(folder / name) not in used:
                places[name].append(folder)
    there = {name: folders for name, folders in places.items() if folders}
    if not there:
        return ""
    folders = sorted({folder for several in there.values() for folder in several})
    several = [name for name, own in there.items() if len(own) > 1]
    whole = _holders(wanted, places) if raw.takes_images and not any(found) else []
    if whole:
        if len(whole) == 1:
            return f"but {'it is' if len(wanted) == 1 else 'they are'} in {whole[0]}: name it with images (--images)"
        text = f"but files of these names are in {few([str(one) for one in folders])}"
        return f"{text}: name the right folder with images (--images), e.g. {whole[0]}"
    files = "a file of this name is" if len(there) == 1 else "files of these names are"
    text = f"but {files} in {few([str(one) for one in folders])}"
    if several:
        text += f", and {few(several)} {'is' if len(several) == 1 else 'are'} in more than one of them (ambiguous)"
    first, own = next(iter(there.items()))
    base = next((one for one in raw.folders if own[0].is_relative_to(one)), raw.root)
    correct = (
        ""
        if _has_file_per_image(raw)
        else f"write the folder into file_name, e.g. '{(own[0] / first).relative_to(base).as_posix()}', or "
    )
    return f"{text}: {correct}move the images into {base}"


def _holders(wanted: Sequence[str], places: Mapping[str, Sequence[Path]]) -> list[Path]:
    """The folders that contain all paths `wanted`, without leading folders that they do not have (see `check_images`).

    Otherwise those that contain all their files without folders, if these have different names. `places` has the
    folders of the files by their names.
    """
    paths = [PurePosixPath(name.replace("\\", "/")).parts for name in wanted]
    for start in range(max(1, min(map(len, paths)) - 1)):
        ends = [path[start:] for path in paths]
        parents = ends[0][:-1]
        tops = [
            Path(*folder.parts[: len(folder.parts) - len(parents)])
            for folder in places[_base(wanted[0])]
            if folder.parts[len(folder.parts) - len(parents) :] == parents
        ]
        if holders := [top for top in tops if all(os.path.isfile(top.joinpath(*end)) for end in ends)]:
            return holders
    first, *others = places.values()
    return [folder for folder in first if all(folder in one for one in others)] if len(places) == len(wanted) else []


def _base(name: str) -> str:
    """The name of a file without its folders."""
    return os.path.basename(name.replace("\\", "/"))
