"""Each command that writes a folder is stopped by each signal, or killed, and then run again.

Afterwards the folder has the files of an uninterrupted run with the same contents, no temporary ones, and those of the
user as they were. A repaired copy (`--fix`) has a folder of its own, without files of the user.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.outputs import MARKER, OutputFolder
from rcnn.weights.checkpoint import save_checkpoint
from tests.faults.forked_commands import SIGNALS, command, left_in, nothing, signal_at
from tests.tiny_data import CLASSES, TINY_MODEL, write_tiny_coco

PREDICTOR = "rcnn.predictor:Predictor"
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks processes")
NAME_PATHS_OR_TIMES = (".html", "config.json", ".zip")
MINE = {"notes.txt": b"of the user", "train/photo.png": b"of the user too"}


@dataclass(frozen=True)
class Case:
    """A command, and the call at which it is stopped: number `place` (from 0) of `owner.name`."""

    words: Sequence[object]
    owner: str  # a module or "module:class"
    name: str
    place: int
    option: str = "--output"
    file: str = ""  # the output is this file in the folder

    @property
    def mine(self) -> dict[str, bytes]:
        """Files of the user that the folder may have beforehand."""
        return {} if self.option == "--fix" else MINE


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """The commands by name."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("inputs")
    data = write_tiny_coco(folder / "coco", {"val": 12}, size=(48, 64), objects=1)
    model, resnet = folder / "m", folder / "resnet"
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.01"]
    save_checkpoint(model, build_detector(override(model_config("mask_rcnn_compact"), words)), classes=CLASSES)
    small = ["backbone.width_per_group=8", "fpn.channels=16", "rpn.width=16", "box.fc_width=16", "num_classes=2"]
    save_checkpoint(resnet, build_detector(override(model_config("faster_rcnn_r50_fpn"), small)), classes=CLASSES)
    torch.save(ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8).state_dict(), folder / "resnet.pth")
    on_cpu = ("--data", data, "--device", "cpu")
    half = ("--fractions", "0.5,0.5")
    train = ("train", "mask_rcnn_compact", *on_cpu[:2], "--val-split", "none", *TINY_MODEL, "train.steps=1")
    return {
        "train": Case((*train, "train.workers=0"), PREDICTOR, "detect", 0),
        "eval": Case(("eval", model, *on_cpu, "--pictures", 1), PREDICTOR, "detect", 2),
        "predict": Case(("predict", model, data / "val", "--device", "cpu"), PREDICTOR, "detect", 2),
        "predict --data": Case(("predict", model, *on_cpu), PREDICTOR, "detect", 2),
        "convert": Case(("convert", folder / "resnet.pth"), "rcnn.weights.checkpoint", "save_file", 0),
        "convert, its last files": Case(("convert", folder / "resnet.pth"), "os", "replace", 1),
        "convert --to": Case(
            ("convert", resnet, "--to", "detectron2"), "rcnn.weights.export", "_compare", 0, file="m.pkl"
        ),
        "data split": Case(("data", "split", data, *half), "shutil", "copyfile", 3),
        "data check": Case(("data", "check", data), "rcnn.data.inspect.images", "read_image", 3, option="--fix"),
        "data check --fix": Case(("data", "check", data), "shutil", "copyfile", 3, option="--fix"),
    }


NAMES = (
    "eval", "predict", "predict --data", "convert", "convert, its last files", "convert --to", "data split",
    "data check", "data check --fix",
)  # fmt: skip
CHOSEN = [(name, signal.SIGKILL if place % 2 else SIGNALS[place // 2 % 3]) for place, name in enumerate(NAMES)]
ALL = [(name, number) for name in NAMES for number in (*SIGNALS, signal.SIGKILL)]
OTHERS = [pytest.param(*one, marks=pytest.mark.exhaustive) for one in ALL if one not in CHOSEN]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, without the list of rcnn's files, of which the order may differ."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run(case: Case, folder: Path, number: int = 0) -> int:
    """Run the command with output to `folder`/out, stopped by signal `number` (0: not); its exit status."""
    before = partial(signal_at, case.place, case.owner, case.name, number) if number else nothing
    output = folder / "out" / case.file
    return command(output, *case.words, before=before, option=case.option)[0]


@pytest.fixture(scope="module")
def uninterrupted(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """What each command writes."""
    written: dict[str, dict[str, bytes]] = {}
    for name in NAMES:
        case = cases[name]
        folder = tmp_path_factory.mktemp("whole")
        (folder / "out").mkdir()
        assert run(case, folder) == 0
        written[name] = contents(folder / "out")
        assert written[name]
    return written


@pytest.mark.parametrize(("name", "number"), CHOSEN + OTHERS)
def test_a_stopped_command_can_run_again(
    cases: dict[str, Case], uninterrupted: dict[str, dict[str, bytes]], tmp_path: Path, name: str, number: int
) -> None:
    case, out = cases[name], tmp_path / "out"
    for file, content in case.mine.items():
        (out / file).parent.mkdir(parents=True, exist_ok=True)
        (out / file).write_bytes(content)
    assert run(case, tmp_path, number) == (-number if number == signal.SIGKILL else 128 + number)
    if number != signal.SIGKILL:
        assert not list(out.glob(".rcnn-w*"))
    assert run(case, tmp_path) == 0
    same = {file: content for file, content in contents(out).items() if not file.endswith(NAME_PATHS_OR_TIMES)}
    expected = {file: content for file, content in uninterrupted[name].items() if file in same}
    assert same == expected | case.mine
    assert contents(out).keys() == uninterrupted[name].keys() | case.mine.keys()


def test_a_stopped_check_writes_nothing(cases: dict[str, Case], tmp_path: Path) -> None:
    assert run(cases["data check"], tmp_path, signal.SIGTERM) == 128 + signal.SIGTERM
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(cases: dict[str, Case], tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as other:
        other.write_text("notes.txt", "of the other process")
        for name, case in cases.items():
            status, errors = command(tmp_path / "out" / case.file, *case.words, option=case.option)
            assert status == 2, name
            assert re.search(r"out is in use by .*: wait until it ends", errors), name
    assert left_in(tmp_path / "out") == [MARKER, "notes.txt"]


def limit_file_size() -> None:
    """Files of this process cannot grow beyond 1,000 bytes: as on a full disk, but without one."""
    import resource  # not on Windows

    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_a_full_disk_is_one_message_and_keeps_what_is_there(cases: dict[str, Case], tmp_path: Path) -> None:
    for name, case in cases.items():
        out = tmp_path / name.replace(" ", "-").replace(",", "") / "out"
        out.mkdir(parents=True)
        notes = {file: content for file, content in case.mine.items() if file == "notes.txt"}
        for file, content in notes.items():
            (out / file).write_bytes(content)
        status, errors = command(out / case.file, *case.words, before=limit_file_size, option=case.option)
        assert status == 2, (name, errors)
        last = errors.splitlines()[-1]
        assert "Traceback" not in errors, (name, errors)
        assert last.startswith("rcnn: "), (name, errors)
        assert str(out) in last, (name, errors)
        assert "cannot be written" in last, (name, errors)
        assert notes.items() <= contents(out).items(), name
        assert not list(out.glob(".rcnn-w*")), name
