"""The inputs of `rcnn predict` (files, folders, patterns and URLs) as a list of images."""

from __future__ import annotations

import glob
import os
import re
import urllib.parse
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from rcnn.cli.early import fixed_part
from rcnn.data.images import IMAGE_SUFFIXES
from rcnn.data.messages import few
from rcnn.data.video import is_video
from rcnn.download.memory import download
from rcnn.outputs import MARKER, OutputFolder, numbered, readable_entries
from rcnn.text_files import missing_text


class SourceError(ValueError):
    """An input without an image. The message says what is wrong and what to do."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One image to read."""

    name: str  # as in predictions.json: the path as given (for folders: with the rest appended), or the URL
    picture: str  # name of its picture in the output folder, ends with .jpg; unique
    url: bool = False
    flat: str = ""  # like `picture`, without folders; empty: unknown

    def read(self) -> Path | bytes:
        """The input of the decoder: a path, or the bytes of a download. Raises DownloadError if the download fails."""
        return download(self.name) if self.url else Path(self.name)


@dataclass(kw_only=True)
class Sources:
    """The images of all inputs, in order, and what was skipped."""

    images: list[Source] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)  # name, and what is wrong with it
    skipped: list[str] = field(default_factory=list)  # files in folders that are not images
    written: list[str] = field(default_factory=list)  # files in folders that rcnn wrote
    damaged: list[str] = field(default_factory=list)  # lines of rcnn's lists of these that are no entries: FILE:LINE


@dataclass(frozen=True, kw_only=True)
class SplitImages:
    """The images of a split of a data set, with the ids that COCO's formats have for them."""

    names: Mapping[str, str]  # path of an image -> its name in the data set
    image_ids: Mapping[str, Sequence[int | str]]  # path of an image -> its ids: several, if entries share the file
    category_ids: Sequence[int]  # (K,) ids of the classes of the model
    skipped: int = 0  # images of the data set that are left out: their files are missing or cannot be read


def is_url(word: str) -> bool:
    """Whether `word` starts with a scheme, so that it is not a path: http://..., ftp://..."""
    return "://" in word


def expand(words: Iterable[str], output: OutputFolder, reserved: Collection[str] = ()) -> Sources:
    """The images of `words`, in their order: files, folders (recursively, sorted by name), patterns and URLs.

    A pattern is a word with *, ? or [ that is not a file: photos/*.jpg, or for folders at any depth photos/**/*.jpg. In
    folders and patterns, hidden files, files that are not images, and files that rcnn wrote are skipped. Names of
    pictures are unique, free in `output`, and not in its folders `reserved` (lower case). Raises FileExistsError if no
    name is free for one: a link is in the way.
    """
    sources, taken, flat = Sources(), set[str](), set[str]()

    def add(name: str, picture: str, url: bool = False) -> None:
        unique = _picture(picture, taken, output, reserved)
        sources.images.append(Source(name=name, picture=unique, url=url, flat=_flat(unique, flat)))

    for word in words:
        skipped, written = len(sources.skipped), len(sources.written)
        try:
            if is_url(word):
                add(word, _name_of_url(word), url=True)
            elif Path(word).is_dir():
                before = len(sources.images)
                for path in _images_below(Path(word), sources):
                    add(str(path), path.relative_to(word).as_posix())
                if len(sources.images) == before:
                    sources.failed.append((word, f"contains no image{_hint(sources, skipped, written)}"))
            elif "\0" not in word and Path(word).exists():
                add(word, Path(word).name)
            elif glob.has_magic(word):
                before, folder = len(sources.images), fixed_part(word)
                parts = Path(word).parts[len(folder.parts) :]
                for path in _images_below(folder, sources, parts) if folder.is_dir() else ():
                    add(str(path), path.relative_to(folder).as_posix())
                if len(sources.images) == before:
                    sources.failed.append((word, f"matches no image{_hint(sources, skipped, written)}"))
            else:
                reason = missing_text(Path(word))
                sources.failed.append((word, f"{reason}; expected a file, a folder, a pattern, or an http(s) URL"))
        except FileExistsError:  # of the output, not of an input
            raise
        except (ValueError, OSError) as error:
            sources.failed.append((word, str(error)))
    return sources


def sources_of_split(split: SplitImages, output: OutputFolder, reserved: Collection[str] = ()) -> Sources:
    """The images of a split, in its order; names of pictures as in `expand`."""
    sources, taken, flat = Sources(), set[str](), set[str]()
    for path, name in split.names.items():
        unique = _picture(name, taken, output, reserved)
        sources.images.append(Source(name=path, picture=unique, flat=_flat(unique, flat)))
    return sources


def _hint(sources: Sources, skipped: int, written: int) -> str:
    """What to do if a folder or pattern has no image; `skipped` and `written`: numbers of such files before it."""
    if videos := [name for name in sources.skipped[skipped:] if is_video(name)]:
        return f"; to predict on its videos ({few(videos)}), give the path of each, or a pattern such as '*.mp4'"
    if own := [name for name in sources.written[written:] if Path(name).suffix.lower() in IMAGE_SUFFIXES]:
        return f" apart from those that rcnn wrote ({few(own)}); to predict on one of them, give its path"
    return ""


def _name_of_url(url: str) -> str:
    """The last part of a URL's path, for the name of its picture. Raises SourceError if it is not an http(s) URL."""
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname or "", parts.port  # `port` raises ValueError if it is not a number
    except ValueError as error:
        raise SourceError(f"is not a URL ({error}); expected https://HOST/PATH") from error
    if parts.scheme.lower() not in ("http", "https"):
        raise SourceError(f"{parts.scheme}:// is not supported; expected an http:// or https:// URL, or a file")
    if not host or " " in host or not host.isprintable():
        raise SourceError("has no valid host name; expected https://HOST/PATH")
    return PurePosixPath(urllib.parse.unquote(parts.path)).name or "download"


def _images_below(folder: Path, sources: Sources, pattern: Sequence[str] = ("**",)) -> Iterator[Path]:
    """Image files in `folder` and its folders, sorted by path; other files are added to `sources.skipped`.

    `pattern`: the parts that their paths from `folder` must match; ** is any number of folders. Hidden folders are
    skipped. With **, links to folders are skipped too, because they may form a loop. Each folder, and rcnn's list of
    its files, is read once.
    """

    def unreadable(error: OSError) -> None:
        sources.failed.append((str(error.filename), f"cannot be read: {error.strerror}"))

    recursive = "**" in pattern
    written = set[str]()  # real paths of the files and folders that rcnn wrote to the folders so far
    for here, folders, files in os.walk(folder, onerror=unreadable, followlinks=not recursive):
        above = Path(here).relative_to(folder).parts
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if not recursive:
            folders[:] = [name for name in folders if _matches((*above, name), pattern[: len(above) + 1])]
            folders[:] = folders if len(above) + 1 < len(pattern) else []
        real = os.path.realpath(here)
        written |= {os.path.join(real, name) for name in folders} if real in written else set()
        names, damaged = readable_entries(Path(here))
        written |= {os.path.realpath(Path(here) / name) for name in names}
        sources.damaged += [f"{Path(here) / MARKER}:{line}" for line in damaged]
        for name in sorted(files):
            path = Path(here) / name
            if name.startswith(".") or not _matches((*above, name), pattern):
                continue
            if real in written or os.path.realpath(path) in written:
                sources.written.append(str(path))
            elif _may_be_image(path):
                yield path
            else:
                sources.skipped.append(str(path))


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern."""
    if not pattern or pattern[0] != "**":
        return not (parts or pattern) or bool(
            parts and pattern and fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])
        )
    return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))


def _may_be_image(path: Path) -> bool:
    from rcnn.data.images import is_image

    return path.suffix.lower() in IMAGE_SUFFIXES or is_image(path)


def _picture(name: str, taken: set[str], output: OutputFolder, reserved: Collection[str]) -> str:
    """`name` with the suffix .jpg, numbered if another source or a file of the user has that name.

    Its first folder is numbered if it is one of `reserved`: `labelme-2/a.jpg`.
    """
    safe = re.sub(r"[\x00-\x1f\x7f]", "_", name)
    path = PurePosixPath(safe if PurePosixPath(safe).name.strip(".") else "download")
    if path.parts[0].lower() in reserved and len(path.parts) > 1:
        path = PurePosixPath(f"{path.parts[0]}-2", *path.parts[1:])
    picture = output.free_name(path.with_name(path.stem + ".jpg"), taken)
    taken.add(picture.lower())
    return picture


def _flat(picture: str, taken: set[str]) -> str:
    """`in/deep/a.jpg` as `in-deep-a.jpg`, numbered if another source has that name.

    It is short enough for .json in place of .jpg.
    """
    path, number = PurePosixPath(picture.replace("/", "-")).with_suffix(".json"), 1
    while str(flat := numbered(path, number).with_suffix(".jpg")).lower() in taken:
        number += 1
    taken.add(str(flat).lower())
    return str(flat)
