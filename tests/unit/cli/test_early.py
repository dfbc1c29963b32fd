"""What is wrong with the paths of a command is said at once: before torch is imported, which takes seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rcnn.cli.early import is_setting, require_an_input, warn_of_photos, warn_of_repeats
from rcnn.outputs import OutputFolder

CASES = (  # words, what the message contains
    ("train m --data {0}/gone", "gone does not exist; expected the folder of a data set"),
    ("train m --data {0} --output {0}/file", "file is a file; expected a folder"),
    ("train m --data {0} --output {0}/run", "run contains a run (last/): continue it with --resume, or"),
    ("train m --data {0} --output {0}/used", "used is in use by process"),
    ("train m", "give a model or a checkpoint, and its data"),
    ("eval m --data {0}/gone", "gone does not exist"),
    ("eval m --data {0} --output {0}/used", "used is in use by process"),
    ("predict m {0}/gone.jpg", "no image to predict on: {0}/gone.jpg does not exist; expected a file, a folder, a"),
    ("predict m {0}/file --output {0}/file", "file is a file; expected a folder"),
    ("predict m --data {0}/gone", "gone does not exist"),
    ("train m --data {0}/photos --output {0}/photos", "photos is the folder of the data set, and rcnn would put its"),
    ("eval m --data {0}/photos --output {0}/photos", "choose another output (--output), e.g. runs/photos"),
    ("visualize m --data {0}/photos --output {0}/photos", "photos is the folder of the data set"),
    ("data info {0}/photos --output {0}/photos", "photos is the folder of the data set"),
    ("predict m --data {0}/photos --output {0}/photos", "photos is the folder of the data set"),
    ("eval m --data {0}/photos --output {0}/out.json", "out.json is the name of a file (.json); expected a folder, to"),
    ("predict m {0}/photos --output {0}/a.jpg", "give another output, e.g. --output {0}/a"),
    ("predict m {0}/file --images {0}", "--images needs the folder of the data set: give it with --data, or give a"),
    ("predict m {0}/file --annotations a.json", "--annotations needs the folder of the data set"),
    ("train runs/lr=0.1/best --output {0}/new --resume", "new contains no run to resume; to start one: rcnn train"),
    ("train --resume --data {0}", "expected the folder of the run as --output: rcnn train --resume --output RUN"),
    ("train m --resume", "expected the folder of the run as --output: rcnn train --resume --output RUN"),
    ("train {0}/old --resume", "rcnn train --resume --output {0}/old"),
)
CODE = """
import contextlib, io, json, sys
from rcnn.cli.main import main
for words in json.load(sys.stdin):
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            main(words)
        except SystemExit as end:
            print(json.dumps([end.code, errors.getvalue(), "torch" in sys.modules]))
"""


@pytest.mark.skipif(not Path("/proc/locks").exists(), reason="the system does not say who holds a lock")
def test_wrong_paths_are_reported_without_torch(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / "last").mkdir(parents=True)
    (tmp_path / "run" / "last" / "model.safetensors").touch()
    (tmp_path / "run" / ".rcnn-files").write_text('{"file": "last", "sha256": "any"}\n')
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).touch()
    (tmp_path / "old").mkdir()
    record = '{"model": {}, "train": {}, "started_from": "m", "data": "d", "splits": ["a", "b"], "annotations": "", '
    (tmp_path / "old" / "config.json").write_text(record + '"classes": []}')
    words = json.dumps([words.format(tmp_path).split() for words, _ in CASES])
    with OutputFolder(tmp_path / "used"):
        done = subprocess.run([sys.executable, "-c", CODE], input=words, capture_output=True, text=True, check=True)
    for line, (_, expected) in zip(done.stdout.splitlines(), CASES, strict=True):
        status, message, has_torch = json.loads(line)
        assert (status, has_torch) == (2, False), message
        assert expected.format(tmp_path) in message
        assert message.count("\n") == 1


def test_an_output_among_the_photos_gets_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (tmp_path / "a.jpg", tmp_path / "b.jpg")
    one.touch()
    two.touch()
    warn_of_photos(None, [str(tmp_path)])
    warn_of_photos(tmp_path, [str(one), "https://example.org/a.jpg"])
    warn_of_photos(tmp_path.with_name("found"), [str(tmp_path), f"{tmp_path}/*.jpg"])
    assert capsys.readouterr().err == ""
    for words in ([str(tmp_path)], [f"{tmp_path}/*.jpg"], [str(one), str(two)]):
        warn_of_photos(tmp_path, words)
        assert capsys.readouterr().err.startswith(f"warning: {tmp_path} is the folder of the images: ")
    warn_of_photos(tmp_path / "found", [f"{tmp_path}/**/*.jpg", str(tmp_path)])
    assert capsys.readouterr().err.count(f"warning: {tmp_path / 'found'} is inside the folder of the images, ") == 1
    monkeypatch.chdir(tmp_path)
    warn_of_photos(Path("found"), ["a.jpg", "b.jpg"])
    warn_of_photos(Path("found"), ["*.jpg"])
    assert capsys.readouterr().err == ""
    with OutputFolder(tmp_path) as output:
        output.write_json("predictions.json", {})
    warn_of_photos(tmp_path, [str(tmp_path)])  # the folder of earlier predictions
    assert capsys.readouterr().err == ""


def test_one_input_that_exists_is_enough(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    require_an_input([])
    require_an_input(["gone.jpg", str(tmp_path / "photo.jpg")])
    require_an_input(["gone.jpg", "photos/*.jpg"])
    require_an_input(["gone.jpg", "https://example.org/photo.jpg"])
    with pytest.raises(FileNotFoundError, match=r"gone.jpg does not exist \(1 more do not exist\)"):
        require_an_input(["gone.jpg", "lost.jpg"])


def test_a_path_with_an_equals_sign_is_no_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("lr=0.1").mkdir()
    assert not any(map(is_setting, ("lr=0.1", "runs/lr=0.1/best", "photo.jpg", "https://host/a?size=1")))
    assert all(map(is_setting, ("train.lr=0.1", "keypoint.names=[" + "nose," * 99 + "]")))


def test_the_last_value_of_a_repeated_setting_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train.lr=1", "train.ema=0", "train.lr=2", " train.lr=0.5"]
    assert warn_of_repeats(words) == words
    expected = "warning: train.lr is given 3 times (1, 2, 0.5); the last value is used: 0.5\n"
    assert capsys.readouterr() == ("", expected)
    warn_of_repeats(["train.lr=1", "train.ema=0"])
    warn_of_repeats(None)
    assert capsys.readouterr() == ("", "")
