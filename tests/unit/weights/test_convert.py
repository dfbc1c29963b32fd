"""Files of other systems: recognised by tensor names; their settings are used or refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.models import model_config
from rcnn.models.config import ResNetConfig
from rcnn.models.overrides import override
from rcnn.weights.systems import torchvision as torchvision_files
from rcnn.weights.systems.classes import given_names
from rcnn.weights.systems.known import convert
from rcnn.weights.systems.torchvision import to_torchvision
from tests.narrow import instance
from tests.unit.blank_states import blank
from tests.unit.weights.state_dicts import convert_state


@pytest.mark.parametrize("name", ["faster_rcnn_r50_fpn", "mask_rcnn_r50_fpn", "mask_rcnn_r101_fpn"])
def test_torchvision_state_dicts_and_their_older_names(name: str) -> None:
    config = override(model_config(name), ["num_classes=90"])
    theirs = to_torchvision(blank(config), config)
    older = {
        key.replace("_blocks.0.0.", "_blocks.0.")
        .replace("conv.0.0.", "conv.")
        .replace("mask_head.0.0.", "mask_head.mask_fcn1."): value
        for key, value in theirs.items()
    }
    assert set(older) != set(theirs)
    for state in (theirs, older):
        given = convert_state(torchvision_files.SYSTEM, state)
        assert set(given.state) == set(blank(config))
        assert given.config.name == name
        assert given.config.rpn.legacy.anchors == "torchvision"
    assert (given.classes[0], given.classes[11], given.classes[89]) == ("person", "N/A 12", "toothbrush")
    assert len(set(given.classes)) == 90
    assert instance(given.config.backbone, ResNetConfig).norm_eps == 1e-5
    published = convert_state(
        torchvision_files.SYSTEM, theirs, source="downloads/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth"
    )
    assert instance(published.config.backbone, ResNetConfig).norm_eps == 0


def test_torchvision_networks_that_we_do_not_have() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    theirs = to_torchvision(blank(config), config)
    with pytest.raises(ValueError, match=r"unexpected: keypoint_head\.trunk\.conv1\.weight"):
        convert_state(torchvision_files.SYSTEM, {**theirs, "roi_heads.keypoint_head.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"does not fit .* missing: rpn\.convs\.1\.bias"):
        convert_state(torchvision_files.SYSTEM, {**theirs, "rpn.head.conv.1.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="mask_rcnn_r50_c4 cannot be exported to torchvision"):
        to_torchvision({}, model_config("mask_rcnn_r50_c4"))


def test_a_file_of_no_known_system_lists_its_first_names(tmp_path: Path) -> None:
    def written(content: Any, name: str = "a.pkl") -> Path:
        (tmp_path / name).write_bytes(pickle.dumps(content))
        return tmp_path / name

    names = {f"layer{i}.weight": np.zeros(2) for i in range(9)}
    with pytest.raises(ValueError, match=r"layer0\.weight, .*layer4\.weight and 4 more\. Expected a file of D2Go"):
        convert(written({"model": names}))
    with pytest.raises(ValueError, match=r"holds no named tensors: found epoch"):
        convert(written({"epoch": 3}))
    with pytest.raises(ValueError, match=r"holds no named tensors: found int"):
        convert(written(3))
    torch.save({"model": {"backbone.body.trunk0.fbnetv2_0_0.conv.weight": torch.zeros(1)}}, tmp_path / "d.pth")
    with pytest.raises(ValueError, match="D2Go, which has no settings file"):
        convert(tmp_path / "d.pth", tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("names", "used", "note"),
    [
        (("a", "b"), ("a", "b"), ""),
        (("BG", "a", "b"), ("a", "b"), ""),
        (("__background__", "a", "b"), ("a", "b"), ""),
        ((), (), ""),
        (("BG", "a"), ("BG", "a"), ""),
        (("a", "b", "c"), (), "KEY has 3 names for 2 classes and is not used"),
        (("a",), (), "KEY has 1 name for 2 classes and is not used"),
    ],
)
def test_names_of_another_number_of_classes_are_reported(names: tuple[str, ...], used: object, note: str) -> None:
    found, notes = given_names(names, 2, "KEY")
    assert found == used
    assert [line[: len(note)] for line in notes] == ([note] if note else [])
