"""`rcnn data download`: archives arrive in place, a second run continues, nothing of the user's is overwritten."""

from __future__ import annotations

import functools
import re
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from rcnn.data import open_dataset
from rcnn.download import datasets as module
from rcnn.download import fetch as fetch_module
from rcnn.download.catalogue import DOWNLOADS, Archive, Download
from rcnn.download.datasets import download_dataset
from rcnn.download.fetch import DownloadError, file_digest
from tests.command import rcnn
from tests.tiny_data import write_tiny_coco
from tests.unit.download.server import full_disk


class _Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    @override
    def log_message(self, format: str, *args: Any) -> None:
        """Prints nothing."""

    @override
    def do_GET(self) -> None:
        """A file of the folder."""
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A tiny COCO set as three archives on a local server, known as "tiny"; the paths that were asked for."""
    root = write_tiny_coco(tmp_path / "source", {"train": 3, "val": 2})
    packed = tmp_path / "served"
    packed.mkdir()
    for name in ("annotations", "train", "val"):
        with zipfile.ZipFile(packed / f"{name}.zip", "w") as archive:
            for file in sorted((root / name).iterdir()):
                archive.write(file, f"{name}/{file.name}")
    asked: list[str] = []
    handler = type("Handler", (_Quiet,), {"asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(packed)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    monkeypatch.setenv("no_proxy", "*")

    def archive_of(name: str) -> Archive:
        return Archive(
            urls=(f"http://127.0.0.1:{server.server_address[1]}/{name}.zip",),
            creates=(name,),
            source="the test",
            digest=file_digest(packed / f"{name}.zip"),
            size=(packed / f"{name}.zip").stat().st_size,
        )

    both, train, val = (archive_of(name) for name in ("annotations", "train", "val"))
    tiny = Download(splits={"train": (both, train), "val": (both, val)}, default=("train", "val"))
    monkeypatch.setitem(DOWNLOADS, "tiny", tiny)
    yield asked
    server.shutdown()
    server.server_close()


def test_a_data_set_arrives_and_is_not_downloaded_again(
    served: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert rcnn("data", "download", "tiny", "--split", "val", "--output", out) == 0
    assert f"--data {out}" in capsys.readouterr().out
    assert len(open_dataset(out, "val")) == 2
    assert not (out / "train").exists()
    assert rcnn("data", "download", "tiny", "--output", out) == 0
    assert len(open_dataset(out, "train")) == 3
    assert served == ["/annotations.zip", "/val.zip", "/train.zip"]
    shutil.rmtree(out / "val")
    assert rcnn("data", "download", "tiny", "--output", out) == 0
    assert len(open_dataset(out, "val")) == 2
    assert served[3:] == ["/val.zip"], "what a user has removed is downloaded again"
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        "annotations", "rcnn-download.json", "train", "val"
    ]  # fmt: skip


def test_a_run_that_was_stopped_continues(served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_merge", stopped)
        patch.setattr(module.os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            download_dataset("tiny", tmp_path / "out", split=["val"])
    assert len(open_dataset(download_dataset("tiny", tmp_path / "out", split=["val"]), "val")) == 2


def test_an_archive_of_a_download_that_was_killed_is_deleted(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kill comes when the archive has just got its name."""
    real = fetch_module.os.replace

    def killed(source: Path, target: Path) -> None:
        real(source, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch_module.os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            download_dataset("tiny", tmp_path / "out", split=["val"])
    assert [path.name for path in (tmp_path / "out" / "downloads").iterdir()][:1] == ["annotations.zip"]
    download_dataset("tiny", tmp_path / "out", split=["val"])
    assert served == ["/annotations.zip", "/val.zip"]
    assert not (tmp_path / "out" / "downloads").exists()


def test_files_of_the_user_are_kept(served: list[str], tmp_path: Path) -> None:
    (tmp_path / "out" / "annotations").mkdir(parents=True)
    with pytest.raises(FileExistsError, match="annotations exists and was not written by rcnn"):
        download_dataset("tiny", tmp_path / "out")
    assert served == []


def test_an_archive_that_was_put_there_by_hand_is_used_and_kept(served: list[str], tmp_path: Path) -> None:
    own = tmp_path / "out" / "downloads"
    own.mkdir(parents=True)
    content = (tmp_path / "served" / "val.zip").read_bytes()
    (own / "val.zip").write_bytes(content[:-1] + b"x")
    with pytest.raises(DownloadError, match=r"val\.zip has the hash sha256:\w+, expected sha256:\w+: it is truncated"):
        download_dataset("tiny", tmp_path / "out", split=["val"])
    (own / "val.zip").write_bytes(content)
    (own / "notes.txt").write_text("mine")
    download_dataset("tiny", tmp_path / "out", split=["val"])
    assert served == ["/annotations.zip"]
    assert sorted(path.name for path in own.iterdir()) == ["notes.txt", "val.zip"]
    assert len(open_dataset(tmp_path / "out", "val")) == 2


def test_an_archive_put_there_after_a_download_is_kept(served: list[str], tmp_path: Path) -> None:
    out = download_dataset("tiny", tmp_path / "out", split=["val"])
    shutil.rmtree(out / "val")
    (out / "downloads").mkdir()
    shutil.copy(tmp_path / "served" / "val.zip", out / "downloads")
    download_dataset("tiny", out, split=["val"])
    assert (out / "downloads" / "val.zip").is_file()
    assert len(open_dataset(out, "val")) == 2


def test_corrected_annotations_are_kept_when_others_are_unpacked_again(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = DOWNLOADS["tiny"]
    contains = tuple(f"annotations/instances_{name}.json" for name in ("train", "val"))
    both = replace(tiny.splits["train"][0], contains=contains)
    splits: dict[str, tuple[Archive, ...]] = {name: (both, *archives[1:]) for name, archives in tiny.splits.items()}
    monkeypatch.setitem(DOWNLOADS, "tiny", replace(tiny, splits=splits))
    out = download_dataset("tiny", tmp_path / "out")
    corrected, removed = (out / "annotations" / f"instances_{name}.json" for name in ("val", "train"))
    corrected.write_text("{}")
    removed.unlink()
    lines = list[str]()
    download_dataset("tiny", out, log=lines.append)
    assert corrected.read_text() == "{}"
    assert removed.is_file()
    assert lines == ["unpacking annotations.zip", "annotations.zip: files that existed already were kept (1)"]


@pytest.mark.parametrize("is_complete", [False, True])
def test_what_is_downloaded_already_needs_no_space(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_complete: bool
) -> None:
    archives = DOWNLOADS["tiny"].splits["val"]
    size = max(archive.size or 0 for archive in archives)
    largest = next(archive for archive in archives if archive.size == size)
    total = sum(archive.size or 0 for archive in archives)
    place = tmp_path / "out" / "downloads"
    place.mkdir(parents=True)
    content = (tmp_path / "served" / largest.name).read_bytes()
    name = largest.name if is_complete else f"{largest.name}.part"
    (place / name).write_bytes(content)

    def free_space(path: Path) -> float:
        return 2 * total - size  # it fits without the largest archive

    monkeypatch.setattr(module, "free_space", free_space)
    assert len(open_dataset(download_dataset("tiny", tmp_path / "out", split=["val"]), "val")) == 2
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(DownloadError, match="free some space"):
        download_dataset("tiny", tmp_path / "out", split=["val"])


def test_what_two_archives_share_does_not_hide_what_is_missing(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As VOCdevkit of VOC 2007 and 2012: the folder of another archive is left, the own file is removed."""
    tiny = DOWNLOADS["tiny"]
    shared = replace(tiny.splits["val"][0], contains=("annotations/instances_val.json",))
    splits: dict[str, tuple[Archive, ...]] = {name: (shared, *archives[1:]) for name, archives in tiny.splits.items()}
    monkeypatch.setitem(DOWNLOADS, "tiny", replace(tiny, splits=splits))
    out = tmp_path / "out"
    download_dataset("tiny", out, split="")
    (out / "annotations" / "instances_val.json").unlink()
    download_dataset("tiny", out, split="val")
    assert served == ["/annotations.zip", "/train.zip", "/val.zip", "/annotations.zip"]
    assert len(open_dataset(out, "val")) == 2


def test_what_is_refused(
    served: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rcnn("data", "download", "coco", "--output", tmp_path / "out") == 2
    assert "no data set is called 'coco'; expected one of coco2017, coco2014" in capsys.readouterr().err
    assert rcnn("data", "download", "tiny", "--split", "test", "--output", tmp_path / "out") == 2
    assert "tiny has no split 'test'; expected one of train, val" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", full_disk)
    assert rcnn("data", "download", "tiny", "--output", tmp_path / "out") == 2
    assert "needs about 0.2 MB in" in capsys.readouterr().err


def test_a_download_that_fails_says_where_an_archive_is_put_by_hand(served: list[str], tmp_path: Path) -> None:
    (tmp_path / "served" / "val.zip").unlink()
    with pytest.raises(DownloadError) as error:
        download_dataset("tiny", tmp_path / "out", split="val")
    lines = str(error.value).splitlines()
    assert lines[2] == DOWNLOADS["tiny"].splits["val"][1].urls[0]
    assert lines[4] == str(tmp_path / "out" / "downloads")
    assert Path(lines[4]).is_dir()


def test_another_archive_is_refused(served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = DOWNLOADS["tiny"]
    both, val = tiny.splits["val"]
    wrong = replace(tiny, splits={"val": (both, replace(val, creates=("val2017",)))}, default=("val",))
    monkeypatch.setitem(DOWNLOADS, "tiny", wrong)
    with pytest.raises(DownloadError, match="contains val, expected val2017: it is not the file of the test"):
        download_dataset("tiny", tmp_path / "out")


def test_every_archive_of_the_catalogue_names_its_source() -> None:
    archives = {archive for known in DOWNLOADS.values() for needed in known.splits.values() for archive in needed}
    assert set(DOWNLOADS) >= {
        "coco2017", "coco2014", "voc2007", "voc2012", "sbd", "refcoco", "lvis", "balloon"
    }  # fmt: skip
    assert len(archives) >= 18
    for archive in archives:
        assert archive.source
        assert archive.creates
        assert all(re.match(r"https?://[\w.-]+/", address) for address in archive.urls)
        assert re.fullmatch(r"|sha256:[0-9a-f]{64}|md5:[0-9a-f]{32}", archive.digest)
        assert archive.name.endswith((".zip", ".tar", ".tgz"))
    for archive in archives:  # what tells that it is unpacked is its alone
        others = {entry for other in archives - {archive} for entry in other.contains or other.creates}
        assert not others & {*(archive.contains or archive.creates)}
    for name, known in DOWNLOADS.items():
        assert set(known.default) <= set(known.splits), name
