"""Norms without means and variances in Detectron2's files: frozen batch norm of its first versions, or group norm."""

from __future__ import annotations

from pathlib import Path

import torch

from rcnn.models.config import ResNetConfig
from rcnn.weights.systems.converted import Converted
from rcnn.weights.systems.detectron2 import system as detectron2
from tests.unit.weights.state_dicts import convert_state
from tests.unit.weights.test_detectron2 import C4, c4_state, settings


def test_norms_without_statistics_are_the_first_versions_frozen_ones(tmp_path: Path) -> None:
    """Files of these versions contain their anchors."""
    state = {name: value for name, value in c4_state().items() if ".running_" not in name}
    state["proposal_generator.anchor_generator.cell_anchors.0"] = torch.zeros(15, 4)
    for given in (
        convert_state(detectron2.SYSTEM, state, settings(tmp_path, C4)),
        convert_state(detectron2.SYSTEM, state),
    ):
        assert given.state["backbone.stem.conv1.norm.running_var"].unique().tolist() == [1.0]
        assert given.state["backbone.stem.conv1.norm.running_mean"].unique().tolist() == [0.0]
    assert trunk_of(given) == ("frozen_bn", True)
    [line] = [line for line in given.assumed if "norms without means and variances: backbone.norm=frozen_bn" in line]
    assert "if it has group norm: --config MODEL.RESNETS.NORM=GN" in line
    assert trunk_of(convert_state(detectron2.SYSTEM, state, "MODEL.RESNETS.NORM=GN")) == ("gn", False)


def test_norms_without_statistics_in_later_files_are_group_norms() -> None:
    state = {name: value for name, value in c4_state().items() if ".running_" not in name}
    given = convert_state(detectron2.SYSTEM, state)
    assert trunk_of(given) == ("gn", False)
    assert any("norms without means and variances: backbone.norm=gn" in line for line in given.assumed)
    given = convert_state(detectron2.SYSTEM, state, "MODEL.RESNETS.NORM=FrozenBN")
    assert trunk_of(given) == ("frozen_bn", True)
    assert not any("backbone.norm" in line for line in given.assumed)


def trunk_of(given: Converted) -> tuple[str, bool]:
    """Norm of the ResNet, and whether its stride is in the 1x1 convolutions."""
    trunk = given.config.backbone
    assert isinstance(trunk, ResNetConfig)
    return trunk.norm, trunk.stride_in_1x1
