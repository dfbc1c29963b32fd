"""Files that the user puts into the cache of weights: of another model, replaced later, damaged, or misnamed."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.models import MODELS
from rcnn.weights.catalogue import cache
from rcnn.weights.catalogue.names import entries, find_entry
from tests.command import rcnn as command
from tests.unit.weights.published_files import NAME, accept_any_model, publish, serving, write_published

D2GO = "mask_rcnn_fbnetv3a_c4@d2go"  # no digest is published


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


def test_a_file_of_another_model_is_refused(shared: Path) -> None:
    [faster] = (shared / "weights" / "d2go").glob("faster_*.pth")
    entry = find_entry(D2GO)
    file = cache.downloads_folder(entry) / entry.file
    file.parent.mkdir(parents=True)
    shutil.copyfile(faster, file)
    said = rf"{re.escape(str(file))} is not the file of {D2GO}: .*faster_rcnn_fbnetv3a_c4; masks: expected yes, got no"
    with pytest.raises(ValueError, match=said):
        cache.cached_checkpoint(entry)
    assert not cache.is_cached(entry)


def test_another_backbone_and_number_of_classes_are_refused(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = publish(original, "http://nowhere.invalid", monkeypatch, digest="")
    cache.downloads_folder(entry).mkdir(parents=True)
    shutil.copy(original, cache.downloads_folder(entry))
    with pytest.raises(ValueError, match=r"classes: expected 80, got 5; backbone: expected resnet101, got resnet\."):
        cache.cached_checkpoint(entry)
    assert not cache.is_cached(entry)


def test_files_without_a_digest_are_of_models_that_can_be_compared() -> None:
    for entry in entries().values():
        if not entry.digest and entry.kind == "detector":
            assert entry.model in MODELS


def test_a_file_that_is_put_there_later_replaces_the_converted_one(
    original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "require_model", accept_any_model)
    entry = publish(original, "http://nowhere.invalid", monkeypatch, digest="")
    file = cache.downloads_folder(entry) / entry.file
    file.parent.mkdir(parents=True)
    shutil.copyfile(original, file)
    config = cache.cached_checkpoint(entry) / "config.json"
    first = config.read_bytes()

    values = dict(np.load(original))
    np.savez(tmp_path / "later.npz", **(values | {name: values[name] * 0.5 for name in list(values)[:1]}))
    os.utime(tmp_path / "later.npz", (1e9, 1e9))  # an old file, moved there now
    os.utime(config, (2e9, 2e9))
    assert cache.is_current(entry)
    os.utime(config, (1.5e9, 1.5e9))
    assert cache.is_current(entry), "the same file, newer"
    os.replace(tmp_path / "later.npz", file)
    assert not cache.is_current(entry)
    assert cache.local_names() == [f"{NAME} not converted yet"]
    cache.cached_checkpoint(entry)
    assert config.read_bytes() != first
    assert cache.is_current(entry)


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_a_half_file_without_a_digest_is_damaged(
    kept: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = find_entry(D2GO)
    file = cache.downloads_folder(entry) / entry.file
    file.parent.mkdir(parents=True)
    torch.save({"model": torch.zeros(1000)}, file)
    content = file.read_bytes()
    assert command("models", "weights", D2GO) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("  yes")
    file.write_bytes(content[: int(kept * len(content))])
    assert command("models", "weights", D2GO) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("  damaged")
    assert command("doctor") == 1
    said = capsys.readouterr().out
    assert f"damaged: {file} is incomplete" in said
    assert f"({D2GO} not converted yet)" in said
    assert said.splitlines()[-1] == "1 damaged file in the cache of weights, see above"


def test_doctor_says_that_the_cache_is_a_file(own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_cache.write_bytes(b"mine")
    assert command("doctor") == 1
    said = capsys.readouterr().out
    assert f"{own_cache} is a file; expected a folder: set RCNN_CACHE to another one" in said
    assert said.splitlines()[-1] == "the cache of weights is not a folder, see above"


def test_a_file_with_another_name_is_named() -> None:
    entry = find_entry(D2GO)
    folder = cache.downloads_folder(entry)
    folder.mkdir(parents=True)
    (folder / f"{entry.file}.part").write_bytes(b"")
    with pytest.raises(FileNotFoundError) as found:
        cache.cached_checkpoint(entry)
    assert "rename" not in str(found.value)
    (folder / "mask_rcnn_fbnetv3a_dsmask_C4.pth").write_bytes(b"")
    said = f"{folder} contains mask_rcnn_fbnetv3a_dsmask_C4.pth, but the expected name is {entry.file}: "
    with pytest.raises(FileNotFoundError, match=re.escape(said) + "if it is that file, rename it$"):
        cache.cached_checkpoint(entry)


def test_a_download_leaves_the_files_of_the_user_beside_it(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RCNN_OFFLINE")
    with serving(original.parent) as (address, _):
        entry = publish(original, address, monkeypatch)
        mine = cache.downloads_folder(entry) / "renamed.npz"
        mine.parent.mkdir(parents=True)
        mine.write_bytes(b"mine")
        lines: list[str] = []
        cache.cached_checkpoint(entry, lines.append)
    assert "if it is that file, rename it" in lines[0]
    assert [path.name for path in mine.parent.iterdir()] == ["renamed.npz"]
