"""Full disks: a run that does not fit is refused or warned about first, and the error names the checkpoint."""

from __future__ import annotations

import errno
import os
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.outputs import replace_folder
from rcnn.training.disk_space import disk_space, require_space
from rcnn.training.settings import TrainConfig
from rcnn.training.state import TrainState, write_state
from rcnn.weights.checkpoint import write_checkpoint
from rcnn.weights.files import WEIGHTS_FILE
from tests.command import rcnn
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco

CONFIG = override(model_config("mask_rcnn_compact"), (*TINY_MODEL, "num_classes=2"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_coco(tmp_path_factory.mktemp("tiny"), {"train": 2}, size=(32, 48))


def free(monkeypatch: pytest.MonkeyPatch, size: float) -> None:
    """Have every disk report `size` free bytes."""
    monkeypatch.setattr(shutil, "disk_usage", Mock(return_value=SimpleNamespace(free=int(size), total=10**12)))


@pytest.mark.parametrize("words", [{}, {"optimizer": "adamw"}, {"momentum": 0.0}, {"ema": 0.9}])
def test_the_size_of_a_checkpoint_is_known_before_the_run(tmp_path: Path, words: dict[str, object]) -> None:
    """Compared with the files of one that is written."""
    settings = TrainConfig(**words)  # type: ignore[arg-type]
    detector = build_detector(CONFIG)
    expected = disk_space(detector, settings, None)
    state = TrainState.start(detector, settings)
    for parameter in detector.parameters():
        parameter.grad = torch.zeros_like(parameter)
    state.optimizer.step()
    write_state(state.contents(), tmp_path)
    write_checkpoint(tmp_path, detector, CONFIG, CLASSES, {})
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert expected.last == pytest.approx(written, rel=0.15)  # names and headers: 8 % of this small model
    assert expected.best == pytest.approx((tmp_path / "model.safetensors").stat().st_size, rel=0.08)


def test_space_is_needed_for_two_checkpoints_and_those_that_are_kept() -> None:
    detector = build_detector(CONFIG)
    one = disk_space(detector, TrainConfig(steps=100), None)
    kept = disk_space(detector, TrainConfig(steps=100, keep=30), None)
    assert one.most == 2 * one.last + one.best
    assert kept.most == one.most + 3 * one.best
    assert "3 x " in kept.describe()


def test_a_run_that_does_not_fit_is_refused_before_it_starts(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "mask_rcnn_compact", "--data", data, "--output", tmp_path / "run", "--dry-run", *TINY_MODEL]
    words += ["train.ema=0", "train.optimizer=sgd"]
    needed = disk_space(build_detector(CONFIG), TrainConfig(), None)
    free(monkeypatch, needed.last - 1)
    assert rcnn(*words) == 2
    refused = capsys.readouterr().err
    reason = "No space left for the checkpoints of this run: 0.7 MB are needed ("
    assert f"{tmp_path / 'run'} cannot be written: {reason}" in refused
    assert "Traceback" not in refused
    free(monkeypatch, needed.most - 1)
    assert rcnn(*words) == 0
    shown = capsys.readouterr().out
    assert f"warning: the checkpoints in {tmp_path / 'run'} may need 1.7 MB, but 1.7 MB are free" in shown
    assert "up to 1.7 MB more for checkpoints (last/ 0.7 MB, twice while it is replaced, best/ 0.3 MB)" in shown
    free(monkeypatch, needed.most)
    assert require_space(disk_space(build_detector(CONFIG), TrainConfig(), None), None) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the system has no /proc")
def test_a_file_system_without_sizes_is_not_full() -> None:
    """/proc has no space at all, which was said of it; that it cannot be written is found when a file is."""
    space = disk_space(build_detector(CONFIG), TrainConfig(), Path("/proc/rcnn-output"))
    assert require_space(space, Path("/proc/rcnn-output")) == []
    assert space.describe().endswith("; free space not known")


def test_a_full_disk_names_the_checkpoint_and_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device", str(folder / "half"))

    (tmp_path / "last").mkdir()
    (tmp_path / "last" / "kept").touch()
    with pytest.raises(OSError, match=r"2\.0 MB are needed") as error:
        replace_folder(tmp_path / "last", fill, size=2_000_000)
    assert error.value.filename == str(tmp_path / "last")
    free(monkeypatch, 1e6)
    with pytest.raises(OSError, match=r"2\.0 MB are needed"):
        replace_folder(tmp_path / "last", lambda folder: pytest.fail("it does not fit"), size=2_000_000)
    assert [path.name for path in tmp_path.rglob("*")] == ["last", "kept"]


@pytest.mark.skipif(os.name == "nt", reason="limits the size of a file")
def test_the_number_of_a_disk_error_is_not_lost(tmp_path: Path) -> None:
    """torch and safetensors raise errors of their own."""
    import resource

    detector = build_detector(CONFIG)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as of_torch:
            write_state({"step": torch.zeros(2_000_000)}, tmp_path)
        with pytest.raises(OSError, match="File too large") as of_safetensors:
            write_checkpoint(tmp_path, detector, CONFIG, CLASSES, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert of_torch.value.errno == of_safetensors.value.errno == errno.EFBIG


@pytest.mark.parametrize("saved", [False, True])
def test_a_full_disk_during_a_run_says_how_to_go_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], saved: bool
) -> None:
    output = tmp_path / "my run"

    def full(*_: object, **__: object) -> None:
        if saved:
            (output / "last").mkdir()
            (output / "last" / WEIGHTS_FILE).touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "last")

    monkeypatch.setattr("rcnn.training.run.train", full)
    words = ("train", "mask_rcnn_compact", "--data", data, "--output", output, "--val-split", "none", "--device", "cpu")
    words = (*map(str, words), *TINY_MODEL, "train.workers=0")
    assert rcnn(*words) == 2
    message, going_on = capsys.readouterr().err.splitlines()[-2:]
    assert message.startswith("rcnn: last cannot be written: No space left on device")
    resumed = f"to continue: rcnn train mask_rcnn_compact --data {data} --output '{output}' --resume --device cpu"
    assert going_on == (resumed if saved else f"to start again: {shlex.join(['rcnn', *words])}")


def test_a_limit_of_the_shell_on_files_is_found_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    space = disk_space(build_detector(CONFIG), TrainConfig(optimizer="adamw"), tmp_path)
    state = space.last - space.best  # two momenta of each weight: the largest file
    assert state > space.best
    monkeypatch.setattr(resource, "getrlimit", Mock(return_value=(state, resource.RLIM_INFINITY)))
    assert require_space(space, tmp_path / "run") == []
    monkeypatch.setattr(resource, "getrlimit", Mock(return_value=(state - 1, resource.RLIM_INFINITY)))
    with pytest.raises(
        OSError, match=r"for this shell, which limits files to [0-9.,]+ MB: the largest file of a"
    ) as error:
        require_space(space, tmp_path / "run")
    assert error.value.errno == errno.EFBIG
    assert error.value.filename == str(tmp_path / "run" / "last")
