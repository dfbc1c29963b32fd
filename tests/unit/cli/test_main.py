"""The command line: invalid arguments, errors as one line, signals, a closed stdout."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import typer
from rich.markup import render

from rcnn import __version__
from rcnn.cli import app
from rcnn.cli.main import main
from rcnn.cli.train import print_of_run
from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.training.starting import read_weights
from rcnn.weights.checkpoint import save_checkpoint
from tests.command import rcnn
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco

FULL = "cannot be written: No space left on device (1.5 MB free). Free some space, or write to another place"

RCNN = (sys.executable, "-m", "rcnn.cli.main")


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The message of a command that exits with status 2; it is one line."""
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize("command", ["train", "eval", "predict", "convert"])
@pytest.mark.parametrize("again", [("--output", "b"), ("--output=b",)])
def test_an_option_given_twice_is_refused(
    command: str, again: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, command, "x", "--output", "a", *again)
    assert line == "rcnn: --output is given 2 times (a, b); expected once"


def test_options_that_may_be_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--allow-unused", "a", "--allow-unused", "b")
    assert "gone.pth" in refused(capsys, "convert", "gone.pth", "--output", "x", *words)


@pytest.mark.parametrize(
    "words",
    [("predict", "", "a.jpg"), ("predict", "run", ""), ("eval", "run", "--data", ""), ("train", "m", "--output", ""),
     ("data", "download", "coco2017", "--split", "")],
)  # fmt: skip
def test_an_empty_argument_is_refused(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    place = words.index("") + 1
    option = f" ({words[place - 2]})" if words[place - 2].startswith("--") else ""
    assert refused(capsys, *words).startswith(f"rcnn: argument {place}{option} is empty (an unset shell variable?)")


def test_an_empty_value_after_an_equals_sign_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "argument 4 (--split) is empty" in refused(capsys, "data", "check", "photos", "--split=")


def test_a_locale_that_lacks_characters_is_named_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name of a file in UTF-8, as Python gives it in such a locale, cannot be written as UTF-8."""

    def fail(*_: object, **__: object) -> None:
        "b\udcc3\udca4ume.jpg".encode()

    monkeypatch.setattr(app, "app", fail)
    assert "has bytes that are not UTF-8, so it cannot be written: rename the file" in refused(capsys, "doctor")
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    with pytest.raises(SystemExit):
        main(["doctor"])
    advice = "choose a UTF-8 locale (export LC_ALL=C.UTF-8), or set PYTHONUTF8=1"
    warning, message = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: the locale of this shell (ascii) cannot encode all characters, ")
    assert warning.endswith(advice)
    assert message == (
        "rcnn: 'b\\udcc3\\udca4ume.jpg' has characters that the locale of this shell (ascii) does not have: " + advice
    )


def test_an_option_before_the_command_is_refused_with_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert rcnn("--offline", "train", "mask_rcnn_r50_fpn", "--data", "d") == 2
    expected = "rcnn: --offline stands before the command; options follow it: rcnn train ... --offline\n"
    assert capsys.readouterr().err == expected


def test_a_failed_download_does_not_end_the_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path))

    def fetched(name: str, output: Path | None) -> Path:
        if name.startswith("mask"):
            raise ConnectionError("no network")
        return tmp_path / name

    monkeypatch.setattr("rcnn.weights.catalogue.api.download_weights", fetched)
    assert rcnn("download", "mask_rcnn_r50_fpn", "keypoint_rcnn_r50_fpn") == 1
    printed = capsys.readouterr()
    assert printed.out == f"keypoint_rcnn_r50_fpn: {tmp_path / 'keypoint_rcnn_r50_fpn'}\n"
    assert "mask_rcnn_r50_fpn: no network\n1 of 2 not downloaded: mask_rcnn_r50_fpn" in printed.err
    assert rcnn("download", "mask_rcnn_r50_fpn") == 2
    capsys.readouterr()
    assert rcnn("download", "keypoint_rcnn_r50_fpn", "hf:x") == 2
    assert (printed := capsys.readouterr()).out == "", "a wrong name is refused before any download"
    assert "expected hf:owner/name" in printed.err


@pytest.mark.parametrize(("weights", "hint"), [("imagnet", "'imagenet'"), ("non", "'none'")])
def test_a_misspelt_choice_of_weights_has_a_suggestion(weights: str, hint: str) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{weights} does not exist.*\(did you mean {hint}\?\)"):
        read_weights(weights)


@pytest.mark.parametrize("name", ["nomodel", "r50", "zzz"])
def test_an_unknown_model_gets_at_most_three_suggestions(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "models", "show", name)
    assert "`rcnn models list` prints all names" in line
    assert line.count("rcnn_") <= 3


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            MemoryError(),
            "rcnn: not enough memory (MemoryError): reduce the size or the number of images per batch, or use a "
            "smaller model",
        ),
        (OSError(28, "No space left on device", "out/a.jpg"), f"rcnn: out/a.jpg {FULL}"),
        (OSError(28, "No space left on device", "in/a.jpg", None, "out/a.jpg"), f"rcnn: out/a.jpg {FULL}"),
        (OSError(28, "No space left on device"), f"rcnn: the output {FULL.replace(' (1.5 MB free)', '')}"),
        (
            OSError(27, "File too large", "out/a.jpg"),
            "rcnn: out/a.jpg cannot be written: File too large. Raise the limit on the size of files (ulimit -f "
            "unlimited), or write to another place",
        ),
        (
            RuntimeError("can't start new thread"),
            "rcnn: not enough memory (can't start new thread): the limit on processes and threads is reached; raise it "
            "(ulimit -u), or use fewer workers",
        ),
        (ValueError("wrong"), "rcnn: wrong"),
        (
            UnicodeEncodeError("ascii", "caf\xe9.jpg", 3, 4, "ordinal not in range(128)"),
            "rcnn: 'caf\\xe9.jpg' has characters that the locale of this shell (ascii) does not have: choose a UTF-8 "
            "locale (export LC_ALL=C.UTF-8), or set PYTHONUTF8=1",
        ),
    ],
)
def test_an_error_is_one_line(
    error: Exception, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    def free(place: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1_500_000)

    monkeypatch.setattr(app, "app", fail)
    monkeypatch.setattr(shutil, "disk_usage", free)
    assert refused(capsys, "doctor") == line


def test_settings_that_need_too_much_memory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path / "data", {"train": 1}, size=(64, 96))
    words = ("train", "mask_rcnn_compact", "--data", str(data), "--output", str(tmp_path / "run"), "--device", "cpu")
    for channels, message in (
        (10**6, "the weights of this model would take more than"),
        (10**18, "fpn.channels is 1000000000000000000; expected 0 to 1,000,000"),
    ):
        assert refused(capsys, *words, f"fpn.channels={channels}").startswith(f"rcnn: {message}")


def test_a_current_folder_that_was_removed(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys; os.chdir(sys.argv[1]); os.rmdir(sys.argv[1]); from rcnn.cli.main import main; main(['doctor'])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, gone], capture_output=True, text=True, timeout=120, check=False
    )
    assert answer.returncode == 2
    assert answer.stderr == "rcnn: the current folder no longer exists: change to another one (cd)\n"


@pytest.mark.parametrize("words", [("models", "list"), ("--help",), ("doctor",)])
def test_a_closed_stdout_is_no_traceback(words: tuple[str, ...]) -> None:
    process = subprocess.Popen([*RCNN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(60) == 128 + signal.SIGPIPE


def test_a_run_continues_when_stdout_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        print_of_run("first line")
        print_of_run("second line")
        closed.flush()
    assert capsys.readouterr().err == (
        "warning: standard output was closed; training continues, and its log is in log.jsonl\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("both", [False, True])
def test_a_run_continues_when_the_disk_of_stdout_is_full(
    both: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w", encoding="utf-8") as full, open("/dev/full", "w", encoding="utf-8") as errors:
        monkeypatch.setattr(sys, "stdout", full)
        if both:
            monkeypatch.setattr(sys, "stderr", errors)
        print_of_run("first line")
        print_of_run("second line")
    expected = (
        "warning: standard output cannot be written (No space left on device); training continues, and its log is in "
        "log.jsonl\n"
    )
    assert capsys.readouterr().err == ("" if both else expected)


def test_ctrl_c_in_a_download_keeps_the_results_so_far(tmp_path: Path) -> None:
    """The server accepts the connection and never answers."""
    torch.manual_seed(0)
    detector = build_detector(override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2"]))
    save_checkpoint(tmp_path / "model", detector, detector.config, CLASSES, {})
    image = write_tiny_coco(tmp_path / "data", {"val": 1}, size=(64, 96)) / "val" / "val_1.png"
    output = tmp_path / "out"
    partial, picture = output / "predictions.partial.jsonl", output / "val_1.jpg"
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg"
        words = ["predict", str(tmp_path / "model"), str(image), url, "--output", str(output), "--device", "cpu"]
        # a shell starts background jobs with SIGINT ignored, and a child inherits that
        process = subprocess.Popen(
            [*RCNN, *words],
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        try:
            until = time.monotonic() + 120
            while not picture.exists() and process.poll() is None and time.monotonic() < until:
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=15)  # a download may take 120 seconds
        finally:
            process.kill()
    assert process.returncode == 130, errors
    assert errors == f"the results so far are in {partial}\nrcnn: stopped by SIGINT\n"
    assert [json.loads(line)["file"] for line in partial.read_text().splitlines()] == [str(image)]
    assert picture.exists()


def test_the_module_is_the_command() -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "rcnn", "--version"], capture_output=True, text=True, check=True, timeout=60
    )
    assert answer.stdout.strip() == f"rcnn {__version__}"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize("words", [("--version",), ("--help",)])
def test_a_full_stdout_is_named(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        answer = subprocess.run([*RCNN, *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert answer.returncode == 2
    assert answer.stderr.startswith("rcnn: standard output cannot be written: No space left on device. Free some")
    assert answer.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        ("Stopped(2)", 130, "rcnn: stopped by SIGINT\n"),
        ("SystemExit(1)", 1, ""),
        ("SystemExit", 0, ""),
        ("BrokenPipeError", 2, "rcnn: BrokenPipeError\n"),  # of another pipe: stdout and stderr are read here
    ],
)
def test_a_command_ends_before_python_ends_its_threads(error: str, status: int, printed: str) -> None:
    script = f"""
import os, sys, types
from rcnn.cli.main import main
from rcnn.stopping import Stopped

class Late:  # where Python would end the daemon threads
    def __del__(self):
        os._exit(7)

late = Late()

def app(*_, **__):
    raise {error}

sys.modules["rcnn.cli.app"] = types.SimpleNamespace(app=app)
sys.argv = ["rcnn", "doctor"]
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (status, printed)


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "caf\xe9", b"caf\\xe9\n"),
        ("utf-8", "caf\xe9", b"caf\xc3\xa9\n"),
        ("utf-8", "\udcc3.jpg", b"\\udcc3.jpg\n"),  # a byte of a file name that is not UTF-8
    ],
)
def test_characters_that_the_locale_does_not_have_are_escaped(
    monkeypatch: pytest.MonkeyPatch, encoding: str, text: str, shown: bytes
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))

    def show(*_: object, **__: object) -> None:
        print(text)  # as rich does; click writes UTF-8 to ASCII streams

    monkeypatch.setattr(app, "app", show)
    main(["doctor"])
    sys.stdout.flush()
    assert written.getvalue() == shown


def test_help_shows_brackets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # rich takes an unescaped [word] for markup and drops it
    monkeypatch.setenv("COLUMNS", "400")
    shown = {
        "eval": "pip install 'rcnn[boundary]'",
        "predict": "pip install 'rcnn[video]'",
        "push": "pip install 'rcnn[hub]'",
        "data browse": "train.augment=[affine,copy_paste]",
    }
    for command, text in shown.items():
        with pytest.raises(SystemExit):
            main([*command.split(), "--help"])
        assert text in capsys.readouterr().out, command
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    assert '{"photo.jpg": [[x1, y1, x2, y2], ...]}' in capsys.readouterr().out


def test_no_help_text_has_markup() -> None:
    commands = [typer.main.get_command(app.app)]
    texts = list[str]()
    while commands:
        command = commands.pop()
        commands += getattr(command, "commands", {}).values()
        texts += [command.help or "", *(getattr(parameter, "help", None) or "" for parameter in command.params)]
    assert len(texts) > 200
    for text in texts:
        assert render(text).plain == text.replace("\\[", "["), text
