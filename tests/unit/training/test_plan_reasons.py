"""`rcnn train --dry-run` prints the reason for each setting that is not that of the named model."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.training.describe import describe_plan
from rcnn.training.plan import plan_training
from rcnn.training.request import RunRequest
from tests.tiny_data import TINY_MODEL, write_tiny_coco
from tests.unit.training import runs


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of two classes."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny") / "data", {"train": 2}, size=(48, 64))


@pytest.fixture(scope="module")
def trained(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step, with a model that differs from the one that it is named after."""
    output = tmp_path_factory.mktemp("run") / "run"
    words = (*TINY_MODEL, "train.steps=1", "train.batch_size=1", "train.workers=0", "train.warmup_steps=0")
    runs.run("mask_rcnn_compact", data, output, words, splits=("train", "none"))
    return output


def rows(request: RunRequest) -> dict[str, str]:
    """The rows of the plan with a setting: name -> reason; empty if it has none."""
    found = dict[str, str]()
    for line in describe_plan(plan_training(request, log=lambda text: None)):
        if match := re.match(r"((?:[a-z_0-9]+\.)+[a-z_0-9]+|num_classes) +(.*)$", line):
            reason = re.search(r"   \((.+)\)$", match[2])
            found[match[1]] = reason[1] if reason else ""
    return found


@pytest.mark.parametrize("start", ["model", "recipe", "checkpoint", "weights", "resumed"])
def test_each_row_of_the_plan_has_a_reason(
    start: str, data: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = trained / "last"
    theirs = override(model_config("mask_rcnn_r50_fpn"), ["box.pooler.sampling_ratio=2", "rpn.legacy.straddle=0"])

    def read(name: str) -> SimpleNamespace:
        return SimpleNamespace(config=theirs)

    monkeypatch.setattr("rcnn.training.fitted_model.read_weights", read)
    requests = {
        "model": RunRequest(model="mask_rcnn_r50_fpn", weights="none", data=data, overrides=("box.fc_width=64",)),
        "recipe": RunRequest(recipe="chainer-mask-rcnn/R50-C4-COCO", weights="none", data=data),
        "checkpoint": RunRequest(model=str(weights), data=data),
        "weights": RunRequest(model="mask_rcnn_r50_fpn", data=data),
        "resumed": RunRequest(model="mask_rcnn_compact", data=data, output=trained, resume=True),
    }
    expected = {
        "model": {"box.fc_width": "given", "num_classes": "from the data"},
        "recipe": {"mask.initializer": "recipe chainer-mask-rcnn/R50-C4-COCO", "num_classes": "from the data"},
        "checkpoint": {"mask.convs": f"of the checkpoint {weights}", "num_classes": "from the data"},
        "weights": {"rpn.legacy.straddle": "of the weights mask_rcnn_r50_fpn@torchvision"},
        "resumed": dict.fromkeys(("mask.convs", "num_classes"), f"as recorded in {trained}/config.json"),
    }
    found = rows(requests[start])
    assert [name for name, reason in found.items() if not reason] == []
    assert {name: found.get(name) for name in expected[start]} == expected[start]
