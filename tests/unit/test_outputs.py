"""Output folders: files written by rcnn are replaced when complete, all others are never touched."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

import pytest

from rcnn.new_outputs import new_output, output_or_new
from rcnn.outputs import (
    MARKER,
    OutputFolder,
    files_of_rcnn,
    finish_moves,
    marker,
    numbered,
    recover_folder,
    replace_folder,
    require_not_in_use,
)


def test_a_file_of_the_user_is_never_written(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_text("mine")
    with OutputFolder(tmp_path) as output:
        with pytest.raises(FileExistsError, match=r"photo\.jpg exists and was not written by rcnn: choose another"):
            output.write_text("photo.jpg", "theirs")
        assert output.free_name("photo.jpg") == "photo-2.jpg"
        output.write_text("photo-2.jpg", "picture")
    assert (tmp_path / "photo.jpg").read_text() == "mine"
    assert files_of_rcnn(tmp_path) == {"photo-2.jpg"}


def test_a_file_of_the_user_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as folder:
        with pytest.raises(FileExistsError, match=r"a\.txt exists and was not written by rcnn"):
            write_beside_the_user(folder)
        assert (tmp_path / "a.txt").read_text() == "mine"


def write_beside_the_user(folder: OutputFolder) -> None:
    with folder.writing("a.txt") as path:
        path.write_text("rcnn's")
        (folder.path / "a.txt").write_text("mine")


def test_what_rcnn_wrote_is_replaced_unless_somebody_changed_it(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "new" / "out") as output:
        output.write_json("found.json", [1])
    with OutputFolder(tmp_path / "new" / "out") as output:
        path = output.write_json("found.json", [2])
    assert json.loads(path.read_text()) == [2]
    path.write_text("corrected by hand")
    with OutputFolder(path.parent) as output, pytest.raises(FileExistsError, match="was changed after rcnn wrote it"):
        output.write_json("found.json", [3])
    assert path.read_text() == "corrected by hand"


def test_a_block_that_fails_leaves_the_earlier_file(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as output:
        output.write_text("a.txt", "complete")
        with suppress(RuntimeError), output.writing("a.txt") as path:
            path.write_text("half")
            raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "complete"
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, "a.txt"]


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "out"
    outside.mkdir()
    folder.mkdir()
    (outside / "photo.jpg").write_text("mine")
    (folder / "photo.jpg").symlink_to(outside / "photo.jpg")
    (folder / "dangling.jpg").symlink_to(outside / "none.jpg")
    (folder / "sub").symlink_to(outside, target_is_directory=True)
    with OutputFolder(folder) as output:
        for name in ("photo.jpg", "dangling.jpg", "sub/new.jpg", "sub/deep/new.jpg"):
            with pytest.raises(FileExistsError, match="symbolic link"):
                output.write_text(name, "picture")
        assert output.free_name("photo.jpg") == "photo-2.jpg"
    assert [path.name for path in outside.iterdir()] == ["photo.jpg"]
    assert (outside / "photo.jpg").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("link/a.jpg", "out/link is a symbolic link, which rcnn does not follow"),
        ("file/deep/a.jpg", "out/file is a file; expected a folder"),
        ("sub/.rcnn-writing-3.jpg", "3.jpg is a name that rcnn uses itself: choose another name"),
    ],
)
def test_a_name_that_no_number_makes_free_is_refused(tmp_path: Path, name: str, said: str) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    (folder / "file").touch()
    with OutputFolder(folder) as output, pytest.raises(FileExistsError, match=said):
        output.free_name(name)


def test_an_output_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; expected a folder"):
        OutputFolder(tmp_path / "file")
    with pytest.raises(NotADirectoryError, match="file is a file; expected a folder"):
        OutputFolder(tmp_path / "file" / "deep" / "below")
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to("loop")
    for link in ("link", "loop"):
        for below in ("", "a/b"):
            with pytest.raises(FileNotFoundError, match=f"{link} is a broken symbolic link"):
                OutputFolder(tmp_path / link / below)
    with pytest.raises(ValueError, match=r"got .* for the output folder, which is too long for a path: names have"):
        OutputFolder(tmp_path / ("x" * 300))
    with pytest.raises(ValueError, match=r"a b\.html is the name of a file \(\.html\); .* --output '.*/a b'$"):
        OutputFolder(tmp_path / "a b.html")
    (tmp_path / "a b.html").mkdir()
    OutputFolder(tmp_path / "a b.html").close()  # it exists
    OutputFolder(tmp_path / "v1.5").close()
    for place in ("/proc", "/proc/rcnn-output") if Path("/proc/self").exists() else ():
        with pytest.raises(OSError, match=rf"^{place} cannot be written \(.*\): choose another output \(--output\)$"):
            OutputFolder(place)
    with pytest.raises(FileExistsError, match=r"cannot create a folder in .*file \(File exists\): choose another"):
        new_output("eval", "m", below=tmp_path / "file")


def test_a_folder_in_use_is_refused_until_its_process_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, rcnn.outputs as o; f = o.OutputFolder(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        who = rf"process {other.pid} \(rcnn\)" if marker.LOCKS.exists() else "another rcnn process"
        with pytest.raises(BlockingIOError, match=f"in use by {who}: wait until it ends"):
            OutputFolder(tmp_path)
        with pytest.raises(BlockingIOError, match=f"in use by {who}: wait until it ends"):
            require_not_in_use(tmp_path)
        monkeypatch.setattr(marker, "LOCKS", tmp_path / "absent")
        with pytest.raises(BlockingIOError, match="in use by another rcnn process"):
            OutputFolder(tmp_path)
        other.kill()
    OutputFolder(tmp_path).close()


def test_processes_that_only_look_exclude_nobody(tmp_path: Path) -> None:
    OutputFolder(tmp_path).claim("a")
    with (tmp_path / marker.MARKER).open("r+", encoding="utf-8") as looking:
        marker.lock_file(looking, shared=True)
        require_not_in_use(tmp_path)
        with pytest.raises(BlockingIOError):  # the lock is real
            marker.lock_file((tmp_path / marker.MARKER).open("r+", encoding="utf-8"))
        threading.Timer(0.1, looking.close).start()
        with OutputFolder(tmp_path) as output:  # waits for it
            assert looking.closed
            assert output.is_free("a")


def test_a_lock_on_a_marker_that_was_removed_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that held the lock removed the marker between our open and our lock."""
    lock, removed = marker.lock_file, list[Path]()

    def slow(file: IO[str]) -> None:
        if not removed:
            removed.append(tmp_path / MARKER)
            removed[0].unlink()
        lock(file)

    monkeypatch.setattr(marker, "lock_file", slow)
    with OutputFolder(tmp_path) as output:
        assert (tmp_path / MARKER).exists()
        output.write_text("a.txt", "a")
    assert removed
    assert files_of_rcnn(tmp_path) == {"a.txt"}


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_marker_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / MARKER)
    with pytest.raises(FileExistsError, match=r"\.rcnn-files is a folder, a pipe or a device; expected rcnn's list"):
        OutputFolder(tmp_path)


def test_a_full_disk_names_the_file_that_was_written(tmp_path: Path) -> None:
    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path / "temporary"))

    with OutputFolder(tmp_path) as output:
        with pytest.raises(OSError, match="No space") as raised, output.writing("predictions.json") as path:
            full(path)
        assert raised.value.filename == str(tmp_path / "predictions.json")
        with pytest.raises(OSError, match="No space") as raised:
            replace_folder(tmp_path / "last", full)
        assert raised.value.filename == str(tmp_path / "last")


def test_an_error_of_a_full_disk_gets_the_name_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left") as error, OutputFolder(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path)


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".rcnn-writing-1.jpg").touch()
    (tmp_path / MARKER).write_text('{"file": "a.txt", "sha256": "any"}\n{"file": "b.t')
    (tmp_path / "a.txt").touch()
    with OutputFolder(tmp_path) as output:
        assert output.is_free("a.txt")
        output.write_text("b.txt", "b")
    assert files_of_rcnn(tmp_path) == {"a.txt", "b.txt"}
    assert not (tmp_path / ".rcnn-writing-1.jpg").exists()


@pytest.mark.parametrize("text", ["my notes", "my notes\n", "[1]\n"])
def test_a_marker_that_is_not_ours_is_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKER).write_text(text)
    with pytest.raises(FileExistsError, match="rcnn's list of files"):
        OutputFolder(tmp_path)
    assert (tmp_path / MARKER).read_text() == text


def test_a_refused_command_leaves_no_folder(tmp_path: Path) -> None:
    OutputFolder(tmp_path / "new").close()
    (tmp_path / "old").mkdir()
    OutputFolder(tmp_path / "old").close()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert not list((tmp_path / "old").iterdir())


def test_claimed_files_may_grow(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as output:
        for line in ("a", "b"):
            with output.claim("log.jsonl").open("a") as log:
                log.write(line)
        output.claim("last").mkdir()
        assert output.claim("last").is_dir()
    assert (tmp_path / "log.jsonl").read_text() == "ab"


def test_a_later_file_with_the_name_of_a_discarded_one_is_the_users(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as output:
        output.claim("results.jsonl").write_text("rcnn's")
        output.discard("results.jsonl")
        output.discard("never.jsonl")
        assert not (tmp_path / "results.jsonl").exists()
        output.claim("results.jsonl").write_text("again")
        output.discard("results.jsonl")
    (tmp_path / "results.jsonl").write_text("the user's")
    with OutputFolder(tmp_path) as output:
        output.discard("results.jsonl")
        with pytest.raises(FileExistsError, match=r"results\.jsonl exists and was not written by rcnn"):
            output.claim("results.jsonl")
    assert (tmp_path / "results.jsonl").read_text() == "the user's"


@pytest.mark.parametrize("name", ["../a", "/a", ".", "a/../../b"])
def test_a_name_outside_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with OutputFolder(tmp_path) as output, pytest.raises(ValueError, match="not a name inside the output folder"):
        output.is_free(name)


def test_long_names_are_cut(tmp_path: Path) -> None:
    long = "ü" * 125 + "x.jpg"  # 255 bytes
    (tmp_path / long).touch()
    with OutputFolder(tmp_path) as output:
        name = output.free_name(long)
        output.write_text(name, "picture")
    assert len(name.encode()) <= 255
    assert name.endswith("ü-2.jpg")
    assert numbered(PurePosixPath("a/b.tar.gz"), 3) == PurePosixPath("a/b.tar-3.gz")


def test_new_folders_count_up_and_are_never_shared(tmp_path: Path) -> None:
    (tmp_path / "eval-balloons-7").mkdir()

    def new(_: int) -> Path:
        return new_output("eval", "runs/balloons/best", below=tmp_path)

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(new, range(20)))
    assert sorted(path.name for path in made) == sorted(f"eval-balloons-{number}" for number in range(8, 28))
    assert new_output("train", "mask_rcnn_r50_fpn", below=tmp_path).name == "train-mask_rcnn_r50_fpn-1"
    (tmp_path / "model.v2.pth").touch()
    assert new_output("convert", tmp_path / "model.v2.pth", below=tmp_path).name == "convert-model.v2-1"


def write_number(number: int) -> Callable[[Path], None]:
    """Fills a folder with one file that contains `number`."""

    def fill(folder: Path) -> None:
        (folder / "number").write_text(str(number))

    return fill


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for number in (1, 2):
        replace_folder(tmp_path / "last", write_number(number))
        assert (tmp_path / "last" / "number").read_text() == str(number)
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_write_that_fails_leaves_the_earlier_folder(tmp_path: Path) -> None:
    def fail(new: Path) -> None:
        write_number(2)(new)
        raise KeyboardInterrupt

    replace_folder(tmp_path / "last", write_number(1))
    with pytest.raises(KeyboardInterrupt):
        replace_folder(tmp_path / "last", fail)
    assert (tmp_path / "last" / "number").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_a_kill_between_the_two_moves_is_repaired(tmp_path: Path) -> None:
    for name, number in ((".rcnn-replaced-last", 1), (".rcnn-writing-last", 2)):
        (tmp_path / name).mkdir()
        write_number(number)(tmp_path / name)
    recover_folder(tmp_path / "last")
    assert (tmp_path / "last" / "number").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["last"]


def test_moves_that_a_kill_interrupted_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("a.txt", "b.txt", "c.txt")
    moved: list[str] = []

    def killed(source: Path, target: Path) -> None:
        if moved:
            raise KeyboardInterrupt
        moved.append(target.name)
        os.rename(source, target)

    def write(text: str) -> None:
        with OutputFolder(tmp_path) as output, output.writing_together(*names) as folder:
            for name in names:
                (folder / name).write_text(text)

    write("old")
    monkeypatch.setattr(os, "replace", killed)
    with suppress(KeyboardInterrupt):
        write("new")
    monkeypatch.undo()
    assert [(tmp_path / name).read_text() for name in names] == ["new", "old", "old"]
    (tmp_path / "c.txt").write_text("corrected by hand")
    finish_moves(tmp_path)
    assert [(tmp_path / name).read_text() for name in names] == ["new", "new", "corrected by hand"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, *names]


def test_a_lock_does_not_outlive_its_process_in_a_forked_one(tmp_path: Path) -> None:
    with OutputFolder(tmp_path) as output:
        output.write_text("a.txt", "a")
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"started")
            signal.pause()
        os.read(reader, 7)
        assert output.is_free("a.txt")
    try:
        with OutputFolder(tmp_path) as output:  # the forked process lives on, without the lock
            output.write_text("a.txt", "b")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_new_folder_is_removed_if_nothing_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with suppress(ValueError), output_or_new(None, "eval", "m"):
        raise ValueError
    assert not list(tmp_path.iterdir())
    (tmp_path / "runs").mkdir()
    with suppress(ValueError), output_or_new(None, "eval", "m"):
        raise ValueError
    assert not list((tmp_path / "runs").iterdir())
    with output_or_new(None, "eval", "m") as folder:
        assert folder == Path("runs/eval-m-1")
    with suppress(ValueError), output_or_new("mine", "eval", "m") as folder:
        folder.mkdir()
        raise ValueError
    assert (tmp_path / "mine").is_dir()
