"""Detectron2's files with and without settings, and back to the same file bit for bit."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.setting_tables import settings_table
from rcnn.weights.systems.detectron2 import system as detectron2
from rcnn.weights.systems.detectron2.config import config_of
from rcnn.weights.systems.detectron2.export import settings_of
from rcnn.weights.systems.detectron2.settings import read_yaml
from rcnn.weights.systems.detectron2.system import RULES, to_detectron2
from rcnn.weights.systems.known import convert
from tests.narrow import present
from tests.parity.golden_detectron2 import write_peer_file
from tests.unit.weights.state_dicts import convert_state

FIXTURES = {
    "cascade_mask_rcnn_R_50_FPN_1x": "Misc",
    "faster_rcnn_R_50_FPN_1x": "COCO-Detection",
    "keypoint_rcnn_R_50_FPN_1x": "COCO-Keypoints",
    "mask_rcnn_R_101_FPN_3x": "COCO-InstanceSegmentation",
    "mask_rcnn_R_50_C4_1x": "COCO-InstanceSegmentation",
    "mask_rcnn_R_50_DC5_1x": "COCO-InstanceSegmentation",
    "mask_rcnn_R_50_FPN_1x": "COCO-InstanceSegmentation",
    "mask_rcnn_R_50_FPN_3x_gn": "Misc",
    "mask_rcnn_X_101_32x8d_FPN_3x": "COCO-InstanceSegmentation",
    "rpn_R_50_FPN_1x": "COCO-Detection",
    "scratch_mask_rcnn_R_50_FPN_3x_gn": "Misc",
}
# what the fixtures' settings change for a smaller run, and what tensors cannot tell
RUN = {"input.min_size", "input.max_size", "rpn.proposals.post_nms", "box.score_threshold"}
UNTOLD = {"scratch_mask_rcnn_R_50_FPN_3x_gn": {"backbone.frozen_stages"}}


def shapes(shared: Path, name: str) -> dict[str, Tensor]:
    """The fixture's tensors, by name and shape, without memory."""
    entries = json.loads((shared / "golden/detectron2" / name / "names.json").read_text())
    return {entry["name"]: torch.zeros(()).expand(entry["shape"]) for entry in entries}


def differences(a: DetectorConfig, b: DetectorConfig) -> set[str]:
    """Settings in which two configs differ: {"box.score_threshold"}."""
    one, other = ({setting.path: setting.default for setting in settings_table(config)} for config in (a, b))
    return {path for path in one.keys() | other.keys() if one.get(path, ...) != other.get(path, ...)}


@pytest.mark.parametrize("name", FIXTURES)
def test_every_fixture_converts_with_its_settings_without_and_by_the_zoos_name(shared: Path, name: str) -> None:
    folder = shared / "golden/detectron2" / name
    theirs = shapes(shared, name)
    given = convert_state(detectron2.SYSTEM, theirs, folder / "config.yaml", name)
    assert len(given.state) == len(theirs)
    assert all(given.state[present(RULES.rename(key))] is value for key, value in theirs.items()), "taken as they are"
    assert given.assumed == given.skipped == ()
    assert given.system == "Detectron2"

    guessed = convert_state(detectron2.SYSTEM, theirs, None, name)
    assert differences(guessed.config, given.config) <= RUN | UNTOLD.get(name, set())
    assert len(guessed.assumed) >= 5
    assert all("Detectron2's model zoo" in sentence for sentence in guessed.assumed)
    named = convert_state(detectron2.SYSTEM, theirs, f"{FIXTURES[name]}/{name}.yaml", name)
    assert differences(named.config, given.config) <= RUN
    assert named.config.input.min_size == 800
    if name.startswith("keypoint"):
        assert given.classes == named.classes == guessed.classes == ("person",)
    elif not name.startswith("rpn"):
        assert given.classes[:2] == ("person", "bicycle")
    assert len(given.classes) == given.config.num_classes


@pytest.mark.parametrize("name", FIXTURES)
def test_every_fixture_goes_back_to_its_own_names_and_settings(shared: Path, name: str, tmp_path: Path) -> None:
    folder = shared / "golden/detectron2" / name
    theirs = shapes(shared, name)
    for file in ("config.yaml", "config_train.yaml"):
        if not (folder / file).exists():
            continue
        given = convert_state(detectron2.SYSTEM, theirs, folder / file, name)
        back = to_detectron2(given.state, given.config)
        assert back.keys() == theirs.keys()
        assert all(back[key] is value for key, value in theirs.items())
        (tmp_path / file).write_text(settings_of(given.config))
        assert config_of(read_yaml(tmp_path / file), file) == given.config


@pytest.mark.parametrize(("name", "suffix"), [("rpn_R_50_FPN_1x", ".pkl"), ("mask_rcnn_R_50_FPN_3x_gn", ".pth")])
def test_a_file_and_its_way_back_are_equal_bit_for_bit(shared: Path, tmp_path: Path, name: str, suffix: str) -> None:
    weights = write_peer_file(shared, name, tmp_path / f"m{suffix}")
    if suffix == ".pth":  # as DefaultTrainer writes it, from several processes
        content = torch.load(tmp_path / "m.pth", weights_only=True)
        model = {f"module.{key}": value for key, value in content["model"].items()}
        extra = {"optimizer": {"state": {0: {"momentum_buffer": torch.zeros(99999)}}, "param_groups": [{"lr": 0.02}]},
                 "scheduler": {"last_epoch": 89999, "base_lrs": [0.02]}, "iteration": 89999}  # fmt: skip
        torch.save({"model": model, **extra}, tmp_path / "m.pth")
    else:  # as the zoo's are, of older versions too
        extra = {"pixel_mean": np.zeros((3, 1, 1), np.float32), "pixel_std": np.zeros((3, 1, 1), np.float32),
                 "proposal_generator.anchor_generator.cell_anchors.0": np.zeros((3, 4), np.float32)}  # fmt: skip
        content = {"model": {**weights, **extra}, "__author__": "Detectron2 Model Zoo"}
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(content, protocol=2))
    given = convert(tmp_path / f"m{suffix}", shared / "golden/detectron2" / name / "config.yaml")
    back = to_detectron2(given.state, given.config)
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        assert np.array_equal(back[key].numpy().view(np.uint32), value.view(np.uint32)), key
    assert set(given.skipped) == ({"optimizer (1 array)"} if suffix == ".pth" else set(extra))


def test_half_precision_is_read_as_float32(shared: Path, tmp_path: Path) -> None:
    name = "rpn_R_50_FPN_1x"
    weights = write_peer_file(shared, name, tmp_path / "m.pkl")
    half = {key: value.astype(np.float16) for key, value in weights.items()}
    (tmp_path / "h.pkl").write_bytes(pickle.dumps({"model": half}))
    given = convert(tmp_path / "h.pkl")
    for key, value in half.items():
        assert given.state[present(RULES.rename(key))].dtype == torch.float32
        assert np.array_equal(given.state[present(RULES.rename(key))].numpy(), value.astype(np.float32)), key
