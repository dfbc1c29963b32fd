"""D2Go's training files: batch norms are folded into their convolutions. The names are those of D2Go's code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.models import model_config
from rcnn.models.zoo.d2go import faster_rcnn_fbnetv3a_c4
from rcnn.weights.catalogue.names import entries, find_entry
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.converted import Converted, expected_state
from rcnn.weights.systems.known import convert_found

HEADS = {
    "rpn.convs": "proposal_generator.rpn_head.rpn_feature.0.fbnetv2_0_",
    "box_head.trunk": "roi_heads.box_head.roi_box_conv.0.fbnetv2_0_",
    "mask_head.trunk": "roi_heads.mask_head.feature_extractor.0.fbnetv2_0_",
    "keypoint_head.trunk": "roi_heads.keypoint_head.feature_extractor.0.fbnetv2_0_",
}
OTHERS = {
    "rpn.objectness": "proposal_generator.rpn_head.rpn_regressor.cls_logits",
    "rpn.deltas": "proposal_generator.rpn_head.rpn_regressor.bbox_pred",
    "box_head.logits": "roi_heads.box_predictor.cls_score",
    "box_head.deltas": "roi_heads.box_predictor.bbox_pred",
    "mask_head.logits": "roi_heads.mask_head.predictor.mask_fcn_logits",
}


def their_layer(ours: str) -> tuple[str, bool]:
    """D2Go's name of our layer, and whether a batch norm follows it."""
    if ours == "backbone.stem":
        return "backbone.body.trunk0.fbnetv2_0_0", True
    if ours in OTHERS:
        return OTHERS[ours], False
    if ours.startswith("keypoint_head.logits."):
        return f"roi_heads.keypoint_head.predictor.kps_score_lowres.{ours.rpartition('.')[2]}", False
    found = re.fullmatch(r"(.+)\.(\d+)\.(pw|dw|pwl)", ours)
    assert found, ours
    part, number, layer = found[1], int(found[2]), found[3]
    if part == "backbone.blocks":  # 1, 2, 4 and 8 blocks, numbered from 1 in the first stage
        stage, first = next((stage, first) for stage, first in ((3, 7), (2, 3), (1, 1), (0, 0)) if number >= first)
        name = f"backbone.body.trunk{stage}.fbnetv2_{stage}_{number - first + (stage == 0)}"
    else:
        name = f"{HEADS[part]}{number}"
    return f"{name}.{layer}", layer != "dw"  # dw_skip_bnrelu


def training_file(model: str) -> dict[str, Tensor]:
    """Random tensors with the names and shapes of a file that D2Go's training writes."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, value in expected_state(model_config(model)).items():
        layer, kind = name.rpartition(".")[::2]
        theirs, has_norm = their_layer(layer)
        plain = layer in OTHERS
        if kind == "bias" and not plain:
            continue  # the convolutions have none
        state[theirs + ("" if plain else ".conv") + f".{kind}"] = torch.randn(value.shape, generator=generator)
        if has_norm:
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{theirs}.bn.{part}"] = torch.rand(len(value), generator=generator) + 0.5
            state[f"{theirs}.bn.num_batches_tracked"] = torch.tensor(7)
    return state


def converted(model: str, state: Mapping[str, Tensor]) -> Converted:
    return convert_found(Found(state=state, source=f"{model}.pth"), None)


def layers(state: Mapping[str, Tensor]) -> Iterator[str]:
    return (name.removesuffix(".weight") for name in state if name.endswith(".weight"))


@pytest.mark.parametrize("kind", ["faster", "mask", "keypoint"])
def test_each_layer_computes_what_the_convolution_and_its_norm_compute(kind: str) -> None:
    model = f"{kind}_rcnn_fbnetv3a_c4"
    theirs = training_file(model)
    found = converted(model, theirs)
    assert found.config.name == model
    generator, compared = torch.Generator().manual_seed(1), 0
    for layer in layers(found.state):
        name, has_norm = their_layer(layer)
        weight = found.state[f"{layer}.weight"]
        if layer in OTHERS:
            assert torch.equal(weight, theirs[f"{name}.weight"])
            continue
        groups = len(weight) if layer.endswith(".dw") else 1
        x = torch.randn(1, weight.shape[1] * groups, 5, 5, generator=generator)
        expected = F.conv2d(x, theirs[f"{name}.conv.weight"], groups=groups)
        if has_norm:
            compared += 1
            mean, variance, scale, shift = (
                theirs[f"{name}.bn.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
            )
            expected = F.batch_norm(expected, mean, variance, scale, shift)
        ours = F.conv2d(x, weight, found.state[f"{layer}.bias"], groups=groups)
        torch.testing.assert_close(ours, expected, atol=1e-3, rtol=1e-4)
    assert compared > 30


def test_the_pixels_are_those_of_the_config_file() -> None:
    """D2Go's files for persons divide by the deviations, the others do not; a training file does not say."""
    found = converted("keypoint_rcnn_fbnetv3a_c4", training_file("keypoint_rcnn_fbnetv3a_c4"))
    assert found.config.input.pixel_std == (57.375, 57.12, 58.395)
    assert any("input.pixel_std=[57.375,57.12,58.395]" in sentence for sentence in found.assumed)
    found = converted("faster_rcnn_fbnetv3a_c4", training_file("faster_rcnn_fbnetv3a_c4"))
    assert found.config.input == faster_rcnn_fbnetv3a_c4().input


def test_another_network_of_the_zoo_is_refused() -> None:
    """FBNetV3A without dsmask has squeeze-and-excitation layers."""
    state = training_file("faster_rcnn_fbnetv3a_c4")
    state["backbone.body.trunk2.fbnetv2_2_0.se.se.0.weight"] = torch.zeros(8, 32, 1, 1)
    with pytest.raises(ValueError, match=r"tensors without a counterpart here: .*se\.se\.0\.weight"):
        converted("faster_rcnn_fbnetv3a_c4", state)


def test_real_files_have_these_names(shared: Path) -> None:
    """The exported files of the same networks: the same names, with biases instead of norms."""
    for kind in ("faster", "mask", "keypoint"):
        file = shared / "weights" / "d2go" / f"{kind}_rcnn_fbnetv3a_dsmask_C4_fp32_dequantised.pth"
        exported = torch.load(file, weights_only=True)["model"]
        trained = training_file(f"{kind}_rcnn_fbnetv3a_c4")
        # the exported keypoint network has 0.75 times the channels
        assert {name for name in exported if name.endswith(".weight")} == {
            name for name in trained if name.endswith(".weight") and ".bn." not in name
        }


def test_the_catalogue_names_the_three_files() -> None:
    found = [entry.name for entry in entries().values() if entry.system == "D2Go"]
    assert found == [f"{kind}_rcnn_fbnetv3a_c4@d2go" for kind in ("faster", "mask", "keypoint")]
    assert find_entry("mask_rcnn_fbnetv3a_c4").url.endswith("/d2go/models/268412271/model_0499999.pth")
