"""`rcnn data download`: a known data set, downloaded and unpacked, ready for --data."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from rcnn.arguments import as_text, as_texts
from rcnn.download.catalogue import DOWNLOADS, Archive
from rcnn.download.extract import extract
from rcnn.download.fetch import DownloadError, downloaded_size, fetch, file_digest, megabytes, remove_note
from rcnn.outputs import TEMPORARY, OutputFolder, free_space
from rcnn.progress import DownloadProgress, no_download_progress

RECORD = "rcnn-download.json"  # which archives are unpacked
PACKED = "downloads"  # where archives are until they are unpacked


def download_dataset(
    name: str,
    output: Path | str = "",
    *,
    split: str | Sequence[str] = (),
    progress: DownloadProgress | None = None,
    log: Callable[[str], object] | None = None,
) -> Path:
    """Download a data set of `DOWNLOADS` to the folder `output`, and return the folder for --data.

    `output` defaults to the name of the data set. `split` selects parts of it, by name. Existing parts are not
    downloaded again; an interrupted download continues. Each archive is deleted once it is unpacked, except one that
    the user put into `output`/downloads, which is used instead of a download. Raises ValueError for an unknown name or
    split, DownloadError where the download fails, FileExistsError for files in `output` that rcnn did not write.
    """
    name = as_text(name, "the data set", f"one of {', '.join(DOWNLOADS)}")
    if name not in DOWNLOADS:
        raise ValueError(f"no data set is called {name!r}; expected one of {', '.join(DOWNLOADS)}")
    known = DOWNLOADS[name]
    chosen = as_texts(split, "split") if split else ()
    for one in chosen:
        if one not in known.splits:
            raise ValueError(f"{name} has no split {one!r}; expected one of {', '.join(known.splits)}")
    needed = list(dict.fromkeys(archive for one in chosen or known.default for archive in known.splits[one]))
    with OutputFolder(output or name) as folder:
        done = _recorded(folder.path)
        missing = [archive for archive in needed if archive.name not in done or not _is_there(folder.path, archive)]
        archives = folder.path / PACKED
        if archives.is_symlink() or not archives.is_dir():  # a folder may be the user's, with archives in it
            folder.require_free(PACKED)
        folder.require_free(RECORD, *(entry for archive in missing for entry in archive.creates))
        _require_space(folder.path, missing)
        for archive in missing:
            archives.mkdir(exist_ok=True)
            packed = archives / archive.name
            if packed.is_file():  # from the user, or from a run that was stopped during unpacking
                _require_published(packed, archive)
            else:
                adopt = partial(folder.adopt, f"{PACKED}/{archive.name}")
                _fetch(archive, packed, progress or no_download_progress, on_complete=adopt)
            if log is not None:
                log(f"unpacking {archive.name}")
            if (kept := _unpack(folder, archive, packed)) and log is not None:
                log(f"{archive.name}: files that existed already were kept ({kept:,})")
            done = list(dict.fromkeys([*done, archive.name]))
            folder.write_json(RECORD, {"dataset": name, "archives": done}, indent=2, durable=True)
            folder.discard(f"{PACKED}/{archive.name}")  # unless it is the user's
            remove_note(packed)
        with suppress(OSError):  # it does not exist, or it contains files of the user
            archives.rmdir()
        return folder.path / known.data


def _fetch(archive: Archive, packed: Path, progress: DownloadProgress, on_complete: Callable[[], object]) -> None:
    """Download an archive as `packed`. Raises DownloadError that says how to provide the file without a download.

    `on_complete` records the archive as a file of rcnn before it gets its name. So a process that is killed leaves no
    archive that looks like the user's.
    """
    try:
        with progress(archive.name) as count:
            fetch(
                archive.urls,
                packed,
                digest=archive.digest,
                size=archive.size,
                progress=count,
                on_complete=on_complete,
            )
    except DownloadError as error:
        raise DownloadError(
            f"{error}\nIf this computer has no network, download this file on another one:\n{archive.urls[0]}\n"
            f"Put it into this folder, then run the same command again:\n{packed.parent}"
        ) from error


def _require_published(packed: Path, archive: Archive) -> None:
    """Raise DownloadError if an archive differs from its published size or hash."""
    size = packed.stat().st_size
    if archive.size is not None and size != archive.size:
        found, expected = f"{size:,} bytes", f"{archive.size:,}"
    elif archive.digest and (digest := file_digest(packed, archive.digest.partition(":")[0])) != archive.digest:
        found, expected = f"the hash {digest}", archive.digest
    else:
        return
    raise DownloadError(
        f"{packed} has {found}, expected {expected}: it is truncated, damaged or another file. Remove it, or copy it "
        "there again"
    )


def _recorded(folder: Path) -> list[str]:
    """Names of the archives that are unpacked in a folder."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return [str(one) for one in record["archives"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _is_there(folder: Path, archive: Archive) -> bool:
    """Whether the content of an archive exists, e.g. has not been removed by the user."""
    return all((folder / entry).exists() for entry in archive.contains or archive.creates)


def _require_space(folder: Path, archives: Sequence[Archive]) -> None:
    """Raise DownloadError unless the archives fit: unpacked, plus the largest of them that is not there yet."""
    sizes = [archive.size or 0 for archive in archives]
    left = [
        max(0, size - downloaded_size(folder / PACKED / archive.name))
        for size, archive in zip(sizes, archives, strict=True)
    ]
    needed, free = sum(sizes) + max(left, default=0), free_space(folder)
    if needed > free:
        raise DownloadError(
            f"{', '.join(archive.name for archive in archives)}: needs about {megabytes(needed)} in {folder}, "
            f"which has {megabytes(int(free))} free: free some space, choose another output (--output), or "
            "fewer splits with split (--split)"
        )


def _unpack(folder: OutputFolder, archive: Archive, packed: Path) -> int:
    """Unpack to a temporary folder, then move the created entries into place; existing folders are merged.

    Returns the number of files that existed already: they are kept, because the user may have corrected them.
    """
    kept = 0
    new = folder.path / f"{TEMPORARY}unpacked"
    shutil.rmtree(new, ignore_errors=True)
    try:
        names = extract(packed, new)
        for entry in archive.creates:
            if entry not in names:
                raise DownloadError(
                    f"{packed} contains {', '.join(names[:5])}, expected {entry}: it is not the file of "
                    f"{archive.source}. Remove it, and run the command again"
                )
            target = folder.claim(entry)
            if target.is_dir():
                kept += _merge(new / entry, target)
            else:
                os.replace(new / entry, target)
        return kept
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _merge(source: Path, target: Path) -> int:
    """Move each file below `source` to its place below `target` if there is none; returns the number of the others."""
    kept = 0
    for folder, _, files in os.walk(source):
        destination = target / Path(folder).relative_to(source)
        destination.mkdir(exist_ok=True)
        for name in files:
            if os.path.lexists(destination / name):
                kept += 1
            else:
                os.replace(Path(folder) / name, destination / name)
    return kept
