"""Published weights as checkpoint folders: downloaded, verified and converted on first use, then kept in the cache.

    CACHE/downloads/NAME/FILE       a file that was put there by hand is used instead of a download; it also replaces
                                    a checkpoint that was converted earlier from another file
    CACHE/checkpoints-N/NAME/       the converted checkpoint; N is the version of the config
    CACHE/locks/NAME                held by the process that downloads and converts

CACHE is the environment variable RCNN_CACHE, or ~/.cache/rcnn. RCNN_OFFLINE=1 (`--offline`) forbids downloads.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import pickle
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from rcnn.commands import as_typed
from rcnn.data.messages import few
from rcnn.download.fetch import DownloadError, fetch, megabytes, remove_download
from rcnn.models.config import CONFIG_VERSION
from rcnn.outputs import lock_file, sha256_of
from rcnn.progress import ByteCounter
from rcnn.weights.catalogue import names
from rcnn.weights.catalogue.entry import MD5SUM, Entry
from rcnn.weights.catalogue.expected import require_model
from rcnn.weights.checkpoint import require_undamaged, writing_checkpoint
from rcnn.weights.convert import ConvertOptions, convert_to_folder
from rcnn.weights.files import CONFIG_FILE, WEIGHTS_FILE
from rcnn.weights.readers.open_file import read_container
from rcnn.weights.readers.zips import MAGIC as ZIP_MAGIC
from rcnn.weights.record import read_record

Log = Callable[[str], object]
PATIENCE = 12.0  # seconds without new bytes; so a command without a network ends within 30 seconds
MIB = 2**20  # bytes
SIZE_ROUNDING = 0.6  # MiB: some published sizes are whole numbers
WAIT = 0.2  # seconds between two attempts to take a lock that another process holds
LONGEST_WAIT = 3600.0  # seconds for another process to download and convert


def cache_folder() -> Path:
    """The folder of the cache, which may not exist yet."""
    if given := os.environ.get("RCNN_CACHE", ""):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache") / "rcnn"


def is_offline() -> bool:
    """Whether downloads are forbidden."""
    return os.environ.get("RCNN_OFFLINE", "") not in ("", "0")


def downloads_folder(entry: Entry) -> Path:
    """The folder where the file of `entry` is expected."""
    return cache_folder() / "downloads" / entry.name


def file_by_hand(entry: Entry) -> Path | None:
    """The file of `entry` that was put into the cache, complete or not; None if there is none."""
    file = downloads_folder(entry) / entry.file
    return file if file.is_file() and not entry.package else None


def checkpoint_folder(entry: Entry) -> Path:
    """The folder of the converted checkpoint, which may not exist yet."""
    return cache_folder() / f"checkpoints-{CONFIG_VERSION}" / entry.name


def is_cached(entry: Entry) -> bool:
    """Whether the converted checkpoint is in the cache."""
    return all((checkpoint_folder(entry) / name).is_file() for name in (CONFIG_FILE, WEIGHTS_FILE))


def is_current(entry: Entry) -> bool:
    """Whether the converted checkpoint is in the cache, and no other file was put there by hand after it was written.

    A file that was moved there keeps the time of its last change, so the time of the move counts too.
    """
    if not is_cached(entry):
        return False
    config, file = checkpoint_folder(entry) / CONFIG_FILE, file_by_hand(entry)
    try:
        if file is None or max(file.stat().st_mtime, file.stat().st_ctime) <= config.stat().st_mtime:
            return True
        return read_record(config)["provenance"].get("sha256") == sha256_of(file)
    except ValueError:  # damaged: the file replaces it
        return False
    except FileNotFoundError:  # a download, which the process that converted it has just deleted
        return True


def local_names() -> list[str]:
    """The names of the converted checkpoints in the cache, and of files that were put there by hand."""
    known = names.entries().values()
    by_hand = [f"{entry.name} not converted yet" for entry in known if file_by_hand(entry) and not is_current(entry)]
    return sorted(entry.name for entry in known if is_current(entry)) + sorted(by_hand)


def cache_problems() -> list[str]:
    """Messages about damaged files in the cache, with what to do; reads each file."""
    checks: list[Callable[[], None]] = []
    for entry in names.entries().values():
        if by_hand := file_by_hand(entry):
            checks.append(partial(_require_readable, by_hand, entry))
        if is_current(entry):  # otherwise reading it would convert the file
            checks.append(partial(require_undamaged, entry.name))
    return [problem for check in checks if (problem := _problem(check))]


def _require_readable(file: Path, entry: Entry) -> None:
    """Like `require_published`; a file without a published digest is also opened. Raises ValueError if that fails."""
    require_published(file, entry)
    if not _has_digest(entry):
        read_container(file)


def _problem(check: Callable[[], None]) -> str:
    """The message of the error that `check` raises; empty if it raises none."""
    try:
        check()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def is_available(entry: Entry) -> bool:
    """Whether `cached_checkpoint` needs no network: converted, put there by hand, or in an installed package."""
    return is_cached(entry) or file_by_hand(entry) is not None or _packaged(entry) is not None


def local_state(entry: Entry) -> str:
    """Whether `entry` is on this machine, for a table: yes, damaged, or - for no."""
    file = file_by_hand(entry)
    if file and not is_current(entry) and (_is_cut_short(file) or _is_too_small(file, entry)):
        return "damaged"
    return "yes" if is_available(entry) else "-"


def to_stderr(line: str) -> None:
    """Print a progress line on stderr: stdout is for results."""
    print(line, file=sys.stderr, flush=True)


def cached_checkpoint(entry: Entry, log: Log = to_stderr) -> Path:
    """The folder of the converted checkpoint of `entry`; downloads and converts the file if it is not in the cache.

    Raises ConnectionError if it cannot be downloaded, FileNotFoundError if downloads are forbidden or the Python
    package that contains it is not installed, ValueError if the file is not the published one, TimeoutError if another
    process converts it for too long, OSError if the cache cannot be written.
    """
    folder = checkpoint_folder(entry)
    if is_current(entry):
        return folder
    with _locked(entry, log):
        if is_current(entry):  # another process was faster
            return folder
        file, is_ours = _file(entry, log)
        log(f"converting {file.name} to {folder}")
        options = ConvertOptions(
            settings=entry.settings or None,
            command=as_typed("rcnn", "download", entry.name),
            require=None if _has_digest(entry) else partial(require_model, entry=entry, file=file),
        )
        convert_to_folder(file, folder, options, log=lambda line: None)
        if is_ours:
            _remove(file)
    return folder


def _remove(file: Path) -> None:
    """Delete a file that `_file` downloaded, and its folder unless the user put files there."""
    remove_download(file)
    file.with_name(f"{file.name}.{MD5SUM}").unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        file.parent.rmdir()


def copy_checkpoint(folder: Path, output: Path) -> Path:
    """Copy a checkpoint to the folder `output`; returns `output`. Raises FileExistsError if it contains other files."""
    with writing_checkpoint(output) as temporary:
        for name in (WEIGHTS_FILE, CONFIG_FILE):
            shutil.copyfile(folder / name, temporary / name)
    return output


def _file(entry: Entry, log: Log) -> tuple[Path, bool]:
    """The verified weight file of `entry`, and whether it was downloaded just now."""
    if entry.package:
        packaged = _packaged(entry)
        if packaged is None:
            raise FileNotFoundError(
                f"{entry.name} is in the Python package {entry.package}, which is not installed: "
                "pip install 'rcnn[lite]'"
            )
        require_published(packaged, entry)
        return packaged, False
    folder = downloads_folder(entry)
    file = folder / entry.file
    if file.is_file():
        log(f"using {file}")
        require_published(file, entry)
        return file, False
    folder.mkdir(parents=True, exist_ok=True)  # so that the user can put the file there
    if is_offline():
        raise FileNotFoundError(
            f"{entry.name} is not in the cache, and --offline (RCNN_OFFLINE) forbids downloads. {_by_hand(entry)}"
        )
    if others := _others(entry):
        log(f"note: {others}")
    size = f" ({entry.mib:.0f} MiB)" if entry.mib else ""
    log(f"downloading {entry.url}{size}")
    try:
        fetch(entry.url, file, progress=_progress(log), patience=PATIENCE)
    except DownloadError as error:
        raise ConnectionError(f"{error}\n{_by_hand(entry)}") from error
    try:
        _require_readable(file, replace(entry, digest=_published_digest(entry, log)))
    except ValueError:
        file.unlink()
        raise
    return file, True


def _published_digest(entry: Entry, log: Log) -> str:
    """The digest of `entry`; downloads it if it is published in a separate file. Empty: unknown."""
    if entry.digest != MD5SUM:
        return entry.digest
    file = downloads_folder(entry) / f"{entry.file}.{MD5SUM}"
    try:
        fetch(f"{entry.url}.{MD5SUM}", file, patience=PATIENCE)
        found = re.search(r"\b[0-9a-f]{32}\b", file.read_text(encoding="utf-8", errors="replace").lower())
    except DownloadError as error:
        log(f"warning: {entry.file} is not verified: {error}")
        return ""
    if found is None:
        log(f"warning: {entry.file} is not verified: {entry.url}.{MD5SUM} contains no MD5")
    return f"md5:{found[0]}" if found else ""


def _progress(log: Log) -> ByteCounter:
    """A counter that logs every tenth of a download, with the remaining time at the speed since the first call."""
    started, first, shown = time.monotonic(), -1, 0

    def report(received: int, total: int | None) -> None:
        nonlocal started, first, shown
        if not 0 <= first <= received:  # the first call, perhaps with bytes of an earlier download; or it starts again
            started, first = time.monotonic(), received
        if total and (tenths := 10 * received // total) > shown:
            shown = tenths
            speed = (received - first) / max(time.monotonic() - started, 1e-9)  # bytes per second
            left = f", {(total - received) / speed:.0f} s left" if speed else ""
            log(f"  {megabytes(received)} of {megabytes(total)}{left}")

    return report


def _by_hand(entry: Entry) -> str:
    others = _others(entry)
    return (
        "If this computer has no network, download this file on another one:\n"
        f"{entry.url}\n"
        "Put it into this folder:\n"
        f"{downloads_folder(entry)}"
    ) + (f"\n{others}" if others else "")


def _others(entry: Entry) -> str:
    """A message about files with other names in the folder where the file of `entry` is expected; empty: none."""
    folder = downloads_folder(entry)
    ours = (f"{entry.file}.{MD5SUM}", f"{entry.file}.part")  # starts of the names that `fetch` writes
    listed = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    found = [name for name in listed if not name.startswith(ours) and name != entry.file]
    if not found:
        return ""
    return f"{folder} contains {few(found, 3)}, but the expected name is {entry.file}: if it is that file, rename it"


def _packaged(entry: Entry) -> Path | None:
    """The file of `entry` in the Python package that contains it; None if that is not installed."""
    if not entry.package:
        return None
    try:
        listed = importlib.metadata.files(entry.package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = [Path(str(path.locate())) for path in listed if path.name == entry.file]
    return found[0] if found and found[0].is_file() else None


def require_published(file: Path, entry: Entry) -> None:
    """Raise ValueError unless `file` is complete and has the published digest, if one is published."""
    again = f"Delete it and get it again from {entry.source}"
    size = file.stat().st_size / MIB
    if _is_cut_short(file) or (not _has_digest(entry) and _is_too_small(file, entry)):
        expected = f"expected {entry.mib:.1f} MiB" if entry.mib else "its end is missing"
        raise ValueError(f"{file} is incomplete: {expected}, got {size:.1f} MiB. {again}")
    if not _has_digest(entry):
        return
    kind, _, expected = entry.digest.partition(":")
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, kind).hexdigest()
    if digest.startswith(expected):
        return
    if _is_too_small(file, entry):
        raise ValueError(f"{file} is incomplete: expected {entry.mib:.1f} MiB, got {size:.1f} MiB. {again}")
    raise ValueError(
        f"{file} ({size:.1f} MiB) is incomplete, or not the file that {entry.system} published: expected a "
        f"{kind.upper()} that starts with {expected}, got {digest[: max(len(expected), 8)]}. {again}"
    )


def _has_digest(entry: Entry) -> bool:
    """Whether the digest of `entry` is known without a download."""
    return entry.digest not in ("", MD5SUM)


def _is_too_small(file: Path, entry: Entry) -> bool:
    return file.stat().st_size / MIB < entry.mib - SIZE_ROUNDING


def _is_cut_short(file: Path) -> bool:
    """Whether the end of `file` is missing; False for formats that do not show it without reading the whole file."""
    with file.open("rb") as opened:
        head = opened.read(len(ZIP_MAGIC))
        if not head:
            return True
        if head == ZIP_MAGIC or file.suffix == ".npz":  # its table of contents is at the end
            return not zipfile.is_zipfile(file)
        if file.suffix != ".pkl":
            return False
        opened.seek(-1, os.SEEK_END)
        return opened.read() != pickle.STOP


@contextmanager
def _locked(entry: Entry, log: Log) -> Iterator[None]:
    """Hold the lock of `entry`; wait while another process holds it. It is released when its process ends."""
    path = cache_folder() / "locks" / entry.name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise type(error)(
            f"{cache_folder()}, the cache of weights, cannot be written ({error.strerror}): set RCNN_CACHE to a folder "
            "that can be written"
        ) from error
    with path.open("a+", encoding="utf-8") as file:
        until, waited = time.monotonic() + LONGEST_WAIT, False
        while True:
            try:
                lock_file(file)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise TimeoutError(
                        f"another rcnn process has been downloading {entry.name} for {LONGEST_WAIT / 60:.0f} minutes: "
                        f"end it, or set RCNN_CACHE to another folder"
                    ) from None
                if not waited:
                    log(f"waiting for another rcnn process that prepares {entry.name}")
                waited = True
                time.sleep(WAIT)
        yield
