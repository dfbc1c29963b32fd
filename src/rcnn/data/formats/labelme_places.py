"""Where labelme's files and their images are.

The files are beside their images, or in a folder of their own (SUBFOLDERS) beside a folder of the images (IMAGES). The
image of a file is known by `imagePath`, by its name, or is embedded in the file.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from rcnn.data.checks.tables import RawEntry
from rcnn.data.folders import first_files, images_in, subfolders, walk
from rcnn.data.formats.files import ALL, SPLIT_NAME, visible
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import Warnings, counted, few
from rcnn.outputs import MARKER
from rcnn.text_files import contains_key

# folders that may contain the files of a split
SUBFOLDERS = ("annotations", "labels", "json", "jsons", "images", "imgs", "img", "ann")
IMAGES = ("images", "imgs", "img")  # folders that may contain the images of a split
PAIRED = ("jsons", "imgs", "img")  # of SUBFOLDERS, those that are splits themselves, unless they are one of a pair
MAX_PROBED = 10  # files that are opened in search of a labelme file
START = 1 << 16  # bytes at the start of a file, in which most files have their shapes
MAX_SEARCHED = 50  # folders of a split in which labelme files are searched for
MAX_BYTES = 32 << 20  # largest file that is searched as a whole: some have the embedded image before the shapes


def place_of(folder: Path, split: str) -> Path | None:
    """The folder with the labelme files of a split, the first of several; None if there is none."""
    return next((place for place in places_of(folder, split) if holds_labelme(place)), None)


def places_of(folder: Path, split: str) -> list[Path]:
    """Where the labelme files of a split may be, in order."""
    own = ["", ALL] if split == ALL else [split]
    places = [
        *(folder / name for name in own),
        *(folder / sub / name for sub in subfolders_of(folder) for name in own),
        *(folder / name / sub for name in own for sub in subfolders_of(folder / name)),
    ]
    return list(dict.fromkeys(places))


def subfolders_of(folder: Path) -> list[str]:
    """The names of SUBFOLDERS that are no splits of `folder`: those of PAIRED with files only if one is of a pair.

    In a pair, one folder has the images, the other the only labelme files: jsons/a.json, imgs/a.jpg. The images may
    also be in `folder` itself: jsons/a.json, a.jpg.
    """
    with_files = [sub for sub in SUBFOLDERS if holds_labelme(folder / sub)]
    alone = len(with_files) == 1 and not any(map(holds_labelme, (folder, folder / ALL)))
    is_pair = (
        alone
        and not images_in(folder / with_files[0])
        and (any(images_in(folder / name) for name in IMAGES) or _has_images_of(folder, folder / with_files[0]))
    )
    return [sub for sub in SUBFOLDERS if is_pair or sub not in PAIRED or sub not in with_files]


def _has_images_of(folder: Path, place: Path) -> bool:
    """Whether `folder` has an image with the name of one of the JSON files in `place`."""
    images = images_in(folder)
    return bool(images) and any(file.stem in images for file in json_files(place))


def holds_labelme(place: Path) -> bool:
    """Whether one of the first JSON files in a folder contains labelme's key "shapes"."""
    try:
        return any(map(_has_shapes, first_files(place, ".json", MAX_PROBED)))
    except OSError:
        return False


def _has_shapes(path: Path) -> bool:
    with path.open("rb") as file:
        if contains_key(file.read(START), "shapes"):
            return True
        file.seek(0)
        return os.fstat(file.fileno()).st_size <= MAX_BYTES and contains_key(file.read(), "shapes")


def json_files(place: Path) -> list[Path]:
    """The JSON files in a folder, sorted, without hidden ones."""
    return [file for file in visible(place.glob("*.json")) if file.is_file()]


def json_files_below(place: Path, warnings: Warnings | None = None) -> list[Path]:
    """The JSON files in the subfolders of a folder, at any depth."""
    return [
        inner / name for inner, names in walk(place, warnings) if inner != place for name in names if _is_json(name)
    ]


def _is_json(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def image_folders(root: Path, folder: Path, place: Path, split: str) -> tuple[Path, ...]:
    """Where the images of a split with the files in `place` may be, in order: train/ is the first for train/jsons/."""
    named = [inner for name in IMAGES for inner in (folder / name, folder / name / split, folder / split / name)]
    above = [place.parent] if place.name in SUBFOLDERS and place.name != split and place.parent != folder else []
    first = [*above, root, folder, place, folder / IMAGES[0], folder / split]
    return tuple(dict.fromkeys((*first, *named)))


def image_name(data: RawEntry, file: Path, root: Path, beside: Mapping[str, str]) -> str:
    """The path of an image within `root`: imagePath, else an image beside the file with its stem, else the file itself.

    An imagePath that is relative to the file may lead to an image outside `root`; its path is then absolute. If there
    is no image, that of the same name in the folder of images that corresponds to the folder of the file, else the path
    as it is written: `check_images` searches for the name elsewhere. `beside` are the images beside the file by their
    stems.
    """
    here = os.path.relpath(file.parent, root)
    written = data.get("imagePath")
    path = written.replace("\\", "/") if isinstance(written, str) and "\0" not in written else ""
    joined = os.path.normpath(os.path.join(here, path)).replace(os.sep, "/")
    if path and not joined.startswith("..") and not os.path.isabs(joined) and os.path.isfile(root / joined):
        return joined
    outside = os.path.realpath(os.path.join(file.parent, path))
    is_image = os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES
    if is_image and not os.path.isabs(path) and os.path.isfile(outside):
        return outside
    if file.stem in beside:
        return os.path.normpath(os.path.join(here, beside[file.stem])).replace(os.sep, "/")
    if data.get("imageData"):
        return os.path.normpath(os.path.join(here, file.name)).replace(os.sep, "/")
    for name in _corresponding(here.replace(os.sep, "/"), os.path.basename(path)):
        if os.path.isfile(root / name):
            return name
    return path or f"{file.stem} (no imagePath in {file.name})"


def _corresponding(folder: str, name: str) -> Iterable[str]:
    """The paths of the image `name` in the folders of images for one of files: images/day/NAME for jsons/day.

    There are none for files in a folder that is not one of SUBFOLDERS, and for files in it but not in a subfolder: the
    folders of images are searched for these.
    """
    top, _, inner = folder.partition("/")
    return [f"{images}/{inner}/{name}" for images in IMAGES] if top in SUBFOLDERS and inner and name else []


def counterparts(folder: Path, place: Path, split: str) -> dict[Path, dict[str, str]]:
    """The folders with the images of the files in `place`, another folder: folder -> stem -> name of the image.

    imgs/ for jsons/, imgs/train/ for jsons/train/, train/imgs/ or train/ for train/jsons/.
    """
    path = place.relative_to(folder).parts
    places = [
        folder.joinpath(*path[:at], name, *path[at + 1 :])
        for at, part in enumerate(path[:2])
        for name in IMAGES
        if part in SUBFOLDERS and part != split
    ]
    if path and path[-1] in SUBFOLDERS and path[-1] != split:
        places.append(place.parent)
    return {one: images_in(one) for one in dict.fromkeys(places) if one != place and not holds_labelme(one)}


def common_root(folder: Path, elsewhere: Collection[str], images: Sequence[RawEntry]) -> Path:
    """The folder that contains `folder` and the files `elsewhere`; the names of the `images` become paths within it."""
    inside = os.path.realpath(folder)
    root = os.path.commonpath([inside, *(os.path.dirname(path) for path in elsewhere)])
    for image in images:
        path = os.path.join(inside, str(image["file_name"]))  # an absolute name stays as it is
        if os.path.isfile(path):
            image["file_name"] = os.path.relpath(path, root).replace(os.sep, "/")
    return Path(root)


def note_unused(
    folder: Path, beside: Mapping[Path, Mapping[str, str]], images: Sequence[RawEntry], warnings: Warnings
) -> None:
    """Note the images without a JSON file: they may have objects that are not annotated.

    `beside` has the images beside the files, or in `counterparts`, by their folders; `folder` is that of the data set.
    """
    paths = [os.path.normpath(folder / str(image["file_name"])) for image in images]
    used, searched = set(paths), {Path(path).stem for path in paths if not os.path.isfile(path)}
    unused = [
        name
        for place, names in beside.items()
        for stem, name in names.items()
        if stem not in searched and os.path.normpath(place / name) not in used
    ]
    if unused:
        warnings.note(
            f"{counted(len(unused), 'image')} without a JSON file {'is' if len(unused) == 1 else 'are'} not used; an "
            "image without objects is used if labelme has saved a file for it"
        )


def note_deeper(place: Path, others: Collection[Path], warnings: Warnings) -> None:
    """Note the labelme files in subfolders of `place`, which has files itself; `others` are reported otherwise."""
    deeper = sorted({file.parent for file in json_files_below(place)} - {*others})
    if found := [inner.relative_to(place).as_posix() for inner in deeper if holds_labelme(inner)]:
        warnings.note(
            f"there are labelme files in {few(found)}, inside this folder: not used; to use them too, move all files "
            "of this folder into a subfolder beside these, or theirs into this folder"
        )


def note_others(other: Path, place: Path, ids: Collection[object], warnings: Warnings) -> None:
    """Note the labelme files in the folder `other` without one of that name in `place`, which has those named `ids`."""
    names = [file.name for file in json_files(other) if file.stem not in ids]
    if names:
        warnings.note(
            f"{counted(len(names), 'labelme file')} in {other} ({few(names)}) without a file of that name in {place}: "
            f"not used; to use them too, move them into {place}"
        )


def holds_nested(place: Path) -> bool:
    """Whether a folder has labelme files in subfolders only, and neither splits in these nor predictions of rcnn."""
    if (place / MARKER).exists() or holds_labelme(place):
        return False
    searched = [inner for inner, names in islice(walk(place), MAX_SEARCHED) if any(map(_is_json, names))]
    deeper = [inner for inner in searched if holds_labelme(inner)]
    names = {part for inner in deeper for part in inner.relative_to(place).parts}
    return bool(deeper) and not any(map(SPLIT_NAME.fullmatch, names))


def nested_siblings(folder: Path) -> list[Path]:
    """The folders in the place of splits that have labelme files in subfolders only."""
    tops = (folder, *(folder / sub for sub in subfolders_of(folder)))
    places = [one for top in tops for one in subfolders(top) if one.name not in SUBFOLDERS]
    return [one for one in places if place_of(folder, one.name) is None and holds_nested(one)]


def note_nested(folder: Path, warnings: Warnings) -> None:
    """Note the folders beside splits that have labelme files in subfolders only, and not the usual name of a split."""
    if found := [place for place in nested_siblings(folder) if not SPLIT_NAME.fullmatch(place.name)]:
        warnings.note(
            f"there are labelme files in subfolders of {few([str(place) for place in found])}: not used, unless split "
            "(--split) names that folder"
        )


def images_beside(files: Iterable[Path]) -> dict[Path, dict[str, str]]:
    """The images in the folders of `files`: folder -> stem -> name."""
    return {place: images_in(place) for place in dict.fromkeys(file.parent for file in files)}
