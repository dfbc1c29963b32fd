"""Export to tensorpack: files equal to those that were converted, in its names; networks that it does not have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.weights.checkpoint import save_checkpoint
from rcnn.weights.export import export_checkpoint
from rcnn.weights.systems.known import convert
from rcnn.weights.systems.tensorpack.export import require_network, to_tensorpack
from tests.command import rcnn
from tests.parity.peer_tensorpack import SETTINGS, peer_shapes, write_peer_file
from tests.unit.weights.test_tensorpack import VARIANTS

SMALL = (
    "backbone.blocks=[1,1,1,1]", "num_classes=3", "rpn.width=64", "fpn.channels=64", "box.fc_width=64",
    "box.conv_width=64", "mask.width=64",
)  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_of_tensorpack_comes_back(variant: str, tmp_path: Path) -> None:
    """The same names, shapes and values, but for the box of background, which nothing uses."""
    network, words, _ = VARIANTS[variant]
    write_peer_file(tmp_path / "theirs.npz", peer_shapes(**network))
    converted = convert(tmp_path / "theirs.npz", f"{SETTINGS} {words}")
    names = ("cat", "traffic light", "it's", "e", "f")
    save_checkpoint(tmp_path / "ours", converted.state, converted.config, names)
    lines: list[str] = []
    export_checkpoint(tmp_path / "ours", tmp_path / "back.npz", "tensorpack", lines.append)
    with np.load(tmp_path / "theirs.npz") as theirs, np.load(tmp_path / "back.npz") as back:
        assert set(back) == set(theirs)
        for name in theirs:
            skipped = 4 if "/box/" in name and name.startswith("fastrcnn") else 0
            np.testing.assert_array_equal(back[name][..., skipped:], theirs[name][..., skipped:], err_msg=name)
    again = convert(tmp_path / "back.npz", tmp_path / "back.txt")
    assert again.config == converted.config
    assert again.classes == names
    assert any("equal bit for bit" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("faster_rcnn_r50_fpn", ()),
        ("mask_rcnn_r50_fpn", ("backbone.norm_eps=0.0",)),
        ("mask_rcnn_r50_c4", ()),
        ("cascade_mask_rcnn_r50_fpn", ()),
    ],
)
def test_models_of_rcnn_are_written_for_bgr_images(
    name: str, changes: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = model_config(name)
    known = [word for word in SMALL if getattr(config, word.split(".")[0].split("=")[0]) is not None]
    config = override(config, [*known, *changes])
    torch.manual_seed(0)
    save_checkpoint(tmp_path / "ours", build_detector(config))
    words = ("convert", tmp_path / "ours", "--to", "tensorpack", "--output", tmp_path / "model.npz")
    assert rcnn(*words) == 0
    said = capsys.readouterr().out
    assert ("with variances adjusted to the eps" in said) == bool(changes)
    assert "norm_eps" not in said
    back = convert(tmp_path / "model.npz", tmp_path / "model.txt")
    assert back.config.input.channel_order == "bgr"
    state = build_detector(config).state_dict()
    stem = "backbone.stem.conv1.weight"
    flipped = config.input.channel_order == "rgb"
    assert back.state.keys() == {one for one in state if not one.endswith("num_batches_tracked")}
    assert back.state[stem].shape == state[stem].shape
    torch.manual_seed(0)
    ours = build_detector(config).state_dict()[stem]
    assert torch.equal(back.state[stem], ours.flip(1) if flipped else ours)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("mask_rcnn_compact", [], "kind compact; tensorpack's R-CNNs have ResNets"),
        ("keypoint_rcnn_r50_fpn", [], "a keypoint head"),
        ("rpn_r50_fpn", [], "proposals_only"),
        ("fcis_r101", [], "fcis"),
        ("mask_rcnn_r50_fpn", ["backbone.groups=32"], "backbone.groups=32"),
        ("mask_rcnn_r50_fpn", ["backbone.norm=bn"], "backbone.norm=bn"),
        ("mask_rcnn_r50_fpn", ["rpn.convs=2"], "rpn.convs=2"),
        ("mask_rcnn_r50_fpn", ["box.fcs=1"], "box.convs=0 with box.fcs=1"),
        ("mask_rcnn_r50_fpn", ["mask.convs=2"], "another mask head"),
        ("mask_rcnn_r50_fpn", ["mask.class_agnostic=true"], "mask.class_agnostic"),
        ("mask_rcnn_r50_fpn", ["fpn.norm=gn"], "an FPN with a norm other"),
        ("mask_rcnn_r50_fpn", ["mask.norm=gn"], "a norm of the heads"),
        ("cascade_mask_rcnn_r50_fpn", ["box.class_agnostic=false"], "a cascade with boxes per class"),
        ("mask_rcnn_r50_fpn", ["rpn.legacy.objectness=softmax"], "rpn.legacy.objectness=softmax"),
    ],
)
def test_networks_that_tensorpack_does_not_have(name: str, changes: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_network(override(model_config(name), changes))


def test_biases_without_norms_are_refused() -> None:
    config = override(model_config("mask_rcnn_r50_fpn"), ["backbone.norm=none"])
    state = {"backbone.stem.conv1.bias": torch.ones(64)}
    with pytest.raises(ValueError, match=r"backbone\.stem\.conv1\.bias.* it is not zero, but tensorpack's ResNets"):
        to_tensorpack(state, config)
    assert to_tensorpack({"backbone.stem.conv1.bias": torch.zeros(64)}, config) == {}
