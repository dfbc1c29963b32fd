"""Weights by name: download, check, conversion, cache, files put there by hand, no network, several processes."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import rcnn
from rcnn.cli import doctor
from rcnn.download.http import DownloadError
from rcnn.progress import ByteCounter
from rcnn.weights.catalogue import cache
from rcnn.weights.catalogue.entry import Entry
from rcnn.weights.systems.known import convert
from tests.command import rcnn as command
from tests.parity.peer_tensorpack import SETTINGS
from tests.tiny_data import write_tiny_coco
from tests.unit.weights.published_files import MODEL, NAME, accept_any_model, publish, serving, write_published


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_published(tmp_path_factory.mktemp("published"))


@pytest.fixture
def server(original: Path) -> Iterator[tuple[str, list[str]]]:
    with serving(original.parent) as found:
        yield found


def test_a_name_is_downloaded_converted_and_cached(
    original: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    address, requests = server
    entry = publish(original, address, monkeypatch)
    lines: list[str] = []
    folder = cache.cached_checkpoint(entry, lines.append)
    assert folder == cache.checkpoint_folder(entry)
    assert lines[0] == f"downloading {entry.url}"
    expected = convert(original, SETTINGS)
    checkpoint = rcnn.load_checkpoint(NAME)
    assert checkpoint.config == expected.config
    assert all(np.array_equal(checkpoint.state[name], value) for name, value in expected.state.items())
    assert checkpoint.provenance["command"] == f"rcnn download {NAME}"
    assert rcnn.Predictor(NAME, overrides=["input.min_size=64", "input.max_size=96"]).config.num_classes == (
        expected.config.num_classes
    )
    assert len(requests) == 1, "the second and third use are from the cache"
    assert not cache.downloads_folder(entry).exists(), "the original is not kept beside the converted file"
    again = list[str]()
    assert cache.cached_checkpoint(entry, again.append) == folder
    assert not again


def test_the_remaining_time_of_a_download_that_continues(
    original: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    now = [0.0]  # seconds

    def fetch(url: str, file: Path, *, progress: ByteCounter, patience: float) -> None:
        progress(500_000_000, 10**9)  # from an earlier call of the command
        now[0] += 10
        progress(600_000_000, 10**9)
        raise DownloadError("the end of the test")

    monkeypatch.setattr(cache, "fetch", fetch)
    monkeypatch.setattr(cache, "time", SimpleNamespace(monotonic=lambda: now[0]))
    entry = publish(original, "http://nowhere.invalid", monkeypatch)
    lines: list[str] = []
    with pytest.raises(ConnectionError, match="the end of the test"):
        cache.cached_checkpoint(entry, lines.append)
    assert lines[1:] == ["  500.0 MB of 1.0 GB", "  600.0 MB of 1.0 GB, 40 s left"]  # 100 MB in 10 s, 400 MB left


def test_another_file_than_the_published_one_is_refused(
    original: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(original, server[0], monkeypatch, digest="sha256:00000000")
    with pytest.raises(ValueError, match=r"expected a SHA256 that starts with 00000000, got [0-9a-f]{8}"):
        cache.cached_checkpoint(entry)
    assert not (cache.downloads_folder(entry) / entry.file).exists()
    assert not cache.is_cached(entry)


@pytest.mark.parametrize(
    ("left", "facts", "said"),
    [
        (0.9, {}, "is truncated or damaged"),
        (0.2, {}, "is truncated or damaged"),
        (1.0, {"mib": 8.0}, r"is incomplete: expected 8\.0 MiB, got 0\.0 MiB"),
    ],
)
def test_a_download_without_a_digest_that_is_cut_short_is_found_before_it_is_converted(
    left: float, facts: dict[str, float], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "served" / "old.pth"  # of torch before 1.6: its end does not tell whether it is complete
    file.parent.mkdir()
    torch.save({"a": torch.ones(40), "b": torch.ones(50)}, file, _use_new_zipfile_serialization=False)
    file.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    lines: list[str] = []
    with serving(file.parent) as (address, _):
        entry = publish(file, address, monkeypatch, digest="", **facts)
        with pytest.raises(ValueError, match=f"{re.escape(entry.file)} {said}"):
            cache.cached_checkpoint(entry, lines.append)
    assert not [line for line in lines if line.startswith("converting")]
    assert not (cache.downloads_folder(entry) / entry.file).exists()


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        ("{right}  model_final.pkl\n", None),
        ("0" * 32, "expected a MD5 that starts with 0000"),
        ("nothing", "contains no MD5"),
        ("", "has no such file"),
    ],
)
def test_a_digest_beside_the_file(
    beside: str, said: str | None, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "served" / original.name
    file.parent.mkdir()
    shutil.copy(original, file)
    if beside:
        right = hashlib.md5(file.read_bytes()).hexdigest()
        file.with_name(f"{file.name}.md5sum").write_text(beside.format(right=right))
    lines: list[str] = []
    monkeypatch.setattr(cache, "require_model", accept_any_model)
    with serving(file.parent) as (address, _):
        entry = publish(file, address, monkeypatch, digest="md5sum")
        if beside.startswith("0"):
            with pytest.raises(ValueError, match=said):
                cache.cached_checkpoint(entry, lines.append)
        else:
            cache.cached_checkpoint(entry, lines.append)
            warnings = [line for line in lines if line.startswith("warning: ")]
            assert len(warnings) == (said is not None)
            assert said is None or said in warnings[0]


@pytest.mark.parametrize("offline", [True, False])
def test_without_network_the_address_and_the_folder_stand_on_their_own_lines(
    original: Path,
    offline: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cache.PATIENCE <= 15, "starting takes seconds, too, and all together at most 30"
    monkeypatch.setattr(cache, "PATIENCE", 1.0)
    entry = publish(original, "http://nowhere.invalid", monkeypatch)
    (tmp_path / "a.png").write_bytes(b"")
    words = ("--offline",) if offline else ()
    assert command("predict", NAME, tmp_path / "a.png", "--output", tmp_path / "out", *words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert entry.url in lines
    assert str(cache.downloads_folder(entry)) in lines
    assert cache.downloads_folder(entry).is_dir()
    assert not (tmp_path / "out").exists()

    shutil.copy(original, cache.downloads_folder(entry))  # as the message says
    assert rcnn.load(NAME).config.num_classes > 0
    assert (cache.downloads_folder(entry) / entry.file).exists(), "the user's file stays"


def test_a_cache_that_is_a_file_is_refused(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = publish(original, "http://nowhere.invalid", monkeypatch)
    (tmp_path / "file").write_bytes(b"mine")
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"file, the cache of weights, cannot be written \(.*set RCNN_CACHE to a folder"):
        cache.cached_checkpoint(entry)


@pytest.mark.parametrize(
    ("before", "left_out", "facts", "said"),
    [
        (b"", 100, {}, r"is incomplete: its end is missing, got 33\.0 MiB\. Delete it"),
        (b"", 100, {"mib": 40.0}, r"is incomplete: expected 40\.0 MiB, got 33\.0 MiB\. Delete it"),
        (b"PK", 0, {"mib": 40.0}, r"is incomplete: expected 40\.0 MiB, got 33\.0 MiB\. Delete it"),
        (b"PK", 0, {"mib": 33.0}, r"\(33\.0 MiB\) is incomplete, or not the file that tensorpack published"),
    ],
)
def test_a_damaged_file_that_was_put_there_by_hand_is_named(
    before: bytes,
    left_out: int,
    facts: dict[str, float],
    said: str,
    original: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = publish(original, "http://nowhere.invalid", monkeypatch, **facts)
    cache.downloads_folder(entry).mkdir(parents=True)
    file = cache.downloads_folder(entry) / entry.file
    content = original.read_bytes()
    file.write_bytes(before + content[: len(content) - left_out])
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} {said}"):
        cache.cached_checkpoint(entry)
    assert file.exists()
    monkeypatch.setattr(doctor, "_network", lambda: "not asked")
    assert command("doctor") == 1
    assert re.search(rf"damaged: {re.escape(str(file))} {said}", capsys.readouterr().out)


@pytest.mark.parametrize(("content", "complete"), [(b"", False), (b"ab", False), (b"ab.", True)])
def test_a_pickle_ends_with_a_full_stop(content: bytes, complete: bool, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(content)
    assert cache._is_cut_short(tmp_path / "a.pkl") == (not complete)


def test_a_damaged_checkpoint_in_the_cache_says_which_folder_to_delete(
    original: Path,
    server: tuple[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = cache.cached_checkpoint(publish(original, server[0], monkeypatch))
    assert not cache.cache_problems()
    content = (folder / "model.safetensors").read_bytes()
    advice = rf"this is the cached copy of {NAME}\. Delete the folder {re.escape(str(folder))}; the next command"
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[:100]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(ValueError, match=advice) as found:
            rcnn.load(NAME)
        assert "copy" not in str(found.value).replace("cached copy", ""), "one advice"
        with pytest.raises(ValueError, match=r"damaged.*copy (?!.*cached copy)"):
            rcnn.load(folder)
    monkeypatch.setattr(doctor, "_network", lambda: "not asked")
    assert command("doctor") == 1
    assert re.search(f"damaged: .*{advice}", capsys.readouterr().out)
    shutil.rmtree(folder)
    assert rcnn.load(NAME).config.num_classes > 0


@pytest.mark.parametrize("words", [("eval",), ("train",)])
def test_a_backbone_is_refused_as_a_detector_before_it_is_downloaded(
    words: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], own_cache: Path
) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1, "val": 1}, size=(64, 96))
    assert command(*words, "resnet50@torchvision", "--data", data, "--output", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "resnet50@torchvision contains only a backbone" in said
    assert "downloading" not in said
    assert not own_cache.exists()


def test_the_download_command_and_function(
    original: Path,
    server: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = publish(original, server[0], monkeypatch)
    assert command("download", NAME, "--output", tmp_path / "out") == 0
    assert capsys.readouterr().out == f"{NAME}: {tmp_path / 'out' / NAME}\n"
    copied = rcnn.load_checkpoint(tmp_path / "out" / NAME)
    assert copied.config == rcnn.load_checkpoint(NAME).config
    assert rcnn.download_weights(NAME) == cache.checkpoint_folder(entry)
    assert NAME in rcnn.list_weights()
    assert rcnn.list_weights(MODEL)[0] == NAME
    assert rcnn.list_weights("mask_rcnn_compact") == []
    with pytest.raises(ValueError, match=r"no weights named 'mask_rcn_r50_fpn' \(did you mean .*mask_rcnn_r50_fpn"):
        rcnn.list_weights("mask_rcn_r50_fpn")
    with pytest.raises(ValueError, match=rf"{NAME} is the name of weights; expected that of a model, e\.g\. {MODEL}"):
        rcnn.list_weights(NAME)
    assert command("download", NAME, "mask_rcnn_r50_fpm") == 2
    assert "did you mean" in capsys.readouterr().err
    (tmp_path / "mine" / NAME).mkdir(parents=True)
    (tmp_path / "mine" / NAME / "config.json").write_text("{}")
    assert command("download", NAME, "--output", tmp_path / "mine") == 2
    assert "was not written by rcnn" in capsys.readouterr().err


def test_commands_take_the_name(
    original: Path, server: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(original, server[0], monkeypatch)
    monkeypatch.chdir(tmp_path)
    data = write_tiny_coco(tmp_path / "data", {"val": 2}, size=(64, 96))
    small = ("input.min_size=64", "input.max_size=96")
    assert command("eval", NAME, "--data", data, "--allow-empty", "--output", "evaluated", *small) == 0
    assert (tmp_path / "evaluated" / "metrics.json").exists()
    assert command("predict", NAME, data / "val", "--tta", "64", *small) == 0
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [f"predict-{NAME.replace('@', '_')}-1"]
    assert command("models", "show", NAME) == 0
    assert len(server[1]) == 1


def test_models_weights_says_what_is_local(
    original: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = publish(original, server[0], monkeypatch)
    assert command("models", "weights", MODEL) == 0
    listed = capsys.readouterr().out
    rows = [line for line in listed.splitlines()[1:] if "@" in line]
    assert next(line for line in rows if line.startswith(NAME)).endswith("  -")
    assert {line.split("@")[0] for line in rows} == {MODEL, f"{MODEL}_caffe"}, "none of other models"
    assert listed.splitlines()[-1] == "MiB: - where the publisher's documents give no size."
    assert all(len(line) <= 100 for line in listed.splitlines())
    cache.cached_checkpoint(entry)
    capsys.readouterr()
    assert command("models", "weights", NAME) == 0
    shown = capsys.readouterr().out
    assert entry.url in shown
    assert shown.splitlines()[1].endswith("  yes")
    monkeypatch.setattr(doctor, "HOST", server[0])
    assert command("doctor") == 0
    said = capsys.readouterr().out
    assert re.search(rf"^cache of weights +.*cache +\({NAME}\)$", said, re.MULTILINE)
    assert re.search(r"^network +reachable ", said, re.MULTILINE)
    monkeypatch.setattr(doctor, "HOST", "http://nowhere.invalid")
    assert command("doctor") == 0
    assert re.search(r"^network +(not reachable|no answer in 3 seconds) ", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    assert command("doctor") == 0
    assert re.search(r"^network +not used ", capsys.readouterr().out, re.MULTILINE)


def test_one_process_downloads_while_another_waits(
    original: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = publish(original, server[0], monkeypatch)
    results: list[Path] = []
    lines: list[str] = []
    with cache._locked(entry, lines.append):
        thread = threading.Thread(target=lambda: results.append(cache.cached_checkpoint(entry, lines.append)))
        thread.start()
        until = time.monotonic() + 20
        while not lines and time.monotonic() < until:
            time.sleep(0.01)
        assert lines == [f"waiting for another rcnn process that prepares {NAME}"]
        assert not results
    thread.join(timeout=60)
    assert results == [cache.checkpoint_folder(entry)]
    assert len(server[1]) == 1


def test_a_lock_ends_with_its_process(original: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = publish(original, "http://nowhere.invalid", monkeypatch)
    path = own_cache / "locks" / entry.name
    path.parent.mkdir(parents=True)
    code = (
        "import sys, time\nfrom rcnn.outputs import lock_file\n"
        f"file = open({str(path)!r}, 'a+')\nlock_file(file)\nprint('locked', flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        monkeypatch.setattr(cache, "LONGEST_WAIT", 0.0)
        with pytest.raises(TimeoutError, match="another rcnn process has been downloading"):
            cache.cached_checkpoint(entry)
        process.kill()
        process.wait()
        monkeypatch.setenv("RCNN_OFFLINE", "1")
        with pytest.raises(FileNotFoundError, match="forbids downloads"):
            cache.cached_checkpoint(entry)


def test_weights_of_a_missing_package_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(
        model="net", tag="package", system="x", url="net.pth", licence="x", seen="x",
        package="no-such-package-of-weights",
    )  # fmt: skip
    assert not cache.is_available(entry)
    with pytest.raises(FileNotFoundError, match=r"no-such-package-of-weights, which is not installed.*rcnn\[lite\]"):
        cache.cached_checkpoint(entry)


def test_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RCNN_CACHE", "~/weights")
    assert cache.cache_folder() == Path.home() / "weights"
    monkeypatch.delenv("RCNN_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.cache_folder() == tmp_path / "rcnn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache.cache_folder() == Path.home() / ".cache" / "rcnn"
