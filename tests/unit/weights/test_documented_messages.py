"""Each message of the table in docs/checkpoints.md is one that a conversion raises."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.models.resnet import Bottleneck, ResNet

from rcnn.weights.convert import ConvertOptions, convert_to_folder
from tests.unit.weights.test_conversion import state

DOCUMENT = Path(__file__).parents[3] / "docs" / "checkpoints.md"


def truncated(file: Path) -> None:
    torch.save({"weight": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-50])


def quantized(file: Path) -> None:
    values = ResNet(Bottleneck, [1, 1, 1, 1]).state_dict()
    torch.save({name: value.to(torch.int32) for name, value in values.items()}, file)


def existing(file: Path) -> None:
    torch.save({"model": state()}, file)
    (file.parent / "out").mkdir()
    (file.parent / "out" / "config.json").touch()


# the start of a message in the table -> what writes a file that raises it
FILES: dict[str, Callable[[Path], object]] = {
    "asks for X, which is neither array nor tensor": lambda file: file.write_bytes(b"cos\nsystem\n(S'true'\ntR."),
    "is truncated or damaged": truncated,
    "is a Git LFS pointer": lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "holds integers where weights are expected": quantized,
    "a TorchScript program": lambda file: torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), file),
    "is the index of a TensorFlow checkpoint": lambda file: file.write_bytes(
        bytes(64) + bytes.fromhex("57fb808b247547db")
    ),
    "These shapes depend on KEY": lambda file: torch.save({"model": state()}, file),
    "belongs to no known system": lambda file: torch.save({"unknown.weight": torch.zeros(2)}, file),
    "does not contain its name": lambda file: torch.save({"conv_stem.weight": torch.zeros(2)}, file),
    "exists and was not written by rcnn": existing,
}
OVERRIDES = {"These shapes depend on KEY": ("rpn.anchors.ratios=[1]",)}


def documented() -> list[str]:
    table = DOCUMENT.read_text(encoding="utf-8").partition("| message | what to do |")[2].partition("\n\n")[0]
    return re.findall(r"(?m)^\| `(.+?)` \|", table)


def test_the_table_and_the_files_agree() -> None:
    assert documented() == list(FILES)


@pytest.mark.parametrize("message", FILES)
def test_each_message_is_raised(tmp_path: Path, message: str) -> None:
    FILES[message](tmp_path / "weights.bin")
    expected = re.escape(message).replace("X", ".+").replace("KEY", ".+")
    options = ConvertOptions(overrides=OVERRIDES.get(message, ()))
    with pytest.raises((ValueError, FileExistsError), match=expected):
        convert_to_folder(tmp_path / "weights.bin", tmp_path / "out", options, str)
