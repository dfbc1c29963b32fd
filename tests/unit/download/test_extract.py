"""Archives of unknown origin: plain files arrive, everything else is refused, nothing is written outside."""

from __future__ import annotations

import io
import os
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from rcnn.download import extract as module
from rcnn.download.extract import ArchiveError, extract


def zipped(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def tarred(path: Path, *entries: tuple[tarfile.TarInfo, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for info, content in entries:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz"])
def test_files_arrive(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    random = os.urandom(3000)
    if suffix == ".zip":
        zipped(path, ("a/", b""), ("a/b.jpg", random), ("a/c/d.txt", b"d"), ("__MACOSX/x", b"x"), ("a/.DS_Store", b"y"))
    else:
        folder = tarfile.TarInfo("a")
        folder.type = tarfile.DIRTYPE
        entries = [(folder, b""), (tarfile.TarInfo("./a/b.jpg"), random), (tarfile.TarInfo("a/c/d.txt"), b"d")]
        tarred(path, *entries, mode={".tar": "w", ".tar.xz": "w:xz"}.get(suffix, "w:gz"))
    steps: list[int] = []
    assert extract(path, tmp_path / "out", advance=lambda: steps.append(1)) == ["a"]
    assert (tmp_path / "out" / "a" / "b.jpg").read_bytes() == random
    assert (tmp_path / "out" / "a" / "c" / "d.txt").read_text() == "d"
    assert len(steps) == 2
    assert sorted(p.name for p in (tmp_path / "out").rglob("*")) == ["a", "b.jpg", "c", "d.txt"]


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "C:/x", "a\\..\\x", "..", "a/b/../../../x"])
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_outside_are_refused(tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    archive = zipped(path, (name, b"x")) if kind == "zip" else tarred(path, (tarfile.TarInfo(name), b"x"))
    with pytest.raises(
        ArchiveError, match=r"which (is outside its folder: it is|has a backslash, colon .* is) not unp"
    ):
        extract(archive, tmp_path / "deep" / "out")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == [path.name]


def test_a_colon_in_a_name_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ArchiveError, match=r"the name 'a/12:30\.jpg', which has a backslash, colon or .* Rename the file"
    ):
        extract(zipped(tmp_path / "a.zip", ("a/12:30.jpg", b"x")), tmp_path / "out")


def test_unknown_compression_and_damaged_bz2_are_named(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.zip", ("a", b"content"))
    content = bytearray(path.read_bytes())
    content[8] = content[content.index(b"PK\x01\x02") + 10] = 97  # WavPack
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\.zip: 'a' cannot be unpacked \(.*\): pack the files again"):
        extract(path, tmp_path / "out")
    packed = tarred(tmp_path / "b.tar.bz2", (tarfile.TarInfo("a"), os.urandom(2_000_000)), mode="w:bz2")
    whole = packed.read_bytes()
    packed.write_bytes(whole[:1_500_000] + b"damage" + whole[1_500_006:])
    with pytest.raises(ArchiveError, match=r"b\.tar\.bz2 is damaged \(.*\): delete it"):
        extract(packed, tmp_path / "out2")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_tar_are_refused(tmp_path: Path, kind: bytes) -> None:
    info = tarfile.TarInfo("a/link")
    info.type, info.linkname = kind, "/etc/passwd"
    archive = tarred(tmp_path / "a.tar", (info, b""))
    with pytest.raises(ArchiveError, match="contains a link or device, 'a/link', which is not unpacked"):
        extract(archive, tmp_path / "out")


def test_links_and_encrypted_files_of_zip_are_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with pytest.raises(ArchiveError, match="a link or device, 'a/link'"):
        extract(zipped(tmp_path / "a.zip", (link, b"/etc/passwd")), tmp_path / "out")
    path = zipped(tmp_path / "b.zip", ("a", b"secret"))
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="an encrypted file, 'a'"):
        extract(path, tmp_path / "out2")


def test_a_bomb_is_refused_while_it_unpacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ALLOWANCE", 1 << 16)
    archive = zipped(tmp_path / "a.zip", ("a", bytes(1 << 24)))
    with pytest.raises(ArchiveError, match=r"unpacks to more data than .* so it is not unpacked"):
        extract(archive, tmp_path / "out")
    assert sum(p.stat().st_size for p in (tmp_path / "out").rglob("*")) < 1 << 21


def test_too_many_files_and_names_twice_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArchiveError, match="contains 'A' twice"):
        extract(zipped(tmp_path / "a.zip", ("a", b"1"), ("A", b"2")), tmp_path / "out")
    monkeypatch.setattr(module, "MAX_FILES", 3)
    with pytest.raises(ArchiveError, match="contains more than 3 files"):
        extract(zipped(tmp_path / "b.zip", *((str(n), b"") for n in range(5))), tmp_path / "out2")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_damaged_archives_are_refused(tmp_path: Path, kind: str) -> None:
    content = os.urandom(50_000)
    path = tmp_path / f"a.{kind}"
    good = zipped(path, ("a", content)) if kind == "zip" else tarred(path, (tarfile.TarInfo("a"), content))
    whole = good.read_bytes()
    for number, damaged in enumerate(
        (whole[:100], whole[:-30_000], whole[:9000] + b"damage" + whole[9006:], b"", b"<")
    ):
        path.write_bytes(damaged)
        with pytest.raises(ArchiveError, match="delete it and download it again"):
            extract(path, tmp_path / f"out{number}")
