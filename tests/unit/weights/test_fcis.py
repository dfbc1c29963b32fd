"""FCIS's files of three systems: names, order of rows, what is inferred and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.models.config import FCIS_SAMPLING, FCISConfig, ResNetConfig
from rcnn.weights.systems.classes import COCO_CLASSES, VOC_CLASSES
from rcnn.weights.systems.fcis import system as fcis
from rcnn.weights.systems.known import convert
from tests.unit.weights.state_dicts import convert_state
from tests.unit.weights.test_mxnet import params, v2

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def empty(*shape: int) -> Tensor:
    """A tensor of `shape` that takes no memory."""
    return torch.zeros(()).expand(shape)


def rows(count: int, *rest: int) -> Tensor:
    """A tensor with rows filled with their index."""
    return torch.arange(count, dtype=torch.float32).view(-1, *[1] * len(rest)).expand(count, *rest)


def mxnet_state(depth: int = 50, classes: int = 3, sizes: int = 4) -> dict[str, Tensor]:
    """What msracver/FCIS saves (facts: its symbol's names), of a network of `classes` with the background."""

    def norm(name: str, channels: int) -> dict[str, Tensor]:
        return {
            f"arg:{name}_gamma": empty(channels), f"arg:{name}_beta": empty(channels),
            f"aux:{name}_moving_mean": empty(channels), f"aux:{name}_moving_var": torch.full((channels,), 2.0),
        }  # fmt: skip

    state = {"arg:conv1_weight": empty(64, 3, 7, 7), **norm("bn_conv1", 64)}
    inside = 64
    for stage, blocks in enumerate(BLOCKS[depth], start=2):
        middle, out = 64 * 2 ** (stage - 2), 256 * 2 ** (stage - 2)
        for block in range(blocks):
            numbered = stage in (3, 4) and depth == 101 and block > 0
            letter = f"b{block}" if numbered else chr(ord("a") + block)
            shapes = {"2a": (middle, inside, 1, 1), "2b": (middle, middle, 3, 3), "2c": (out, middle, 1, 1)}
            if block == 0:
                shapes["1"] = (out, inside, 1, 1)
            for branch, shape in shapes.items():
                state[f"arg:res{stage}{letter}_branch{branch}_weight"] = empty(*shape)
                state |= norm(f"bn{stage}{letter}_branch{branch}", shape[0])
            inside = out
    anchors = 3 * sizes
    layers = {
        "rpn_conv_3x3": (512, 1024, 3, 3), "rpn_cls_score": (2 * anchors, 512, 1, 1),
        "rpn_bbox_pred": (4 * anchors, 512, 1, 1), "conv_new_1": (1024, 2048, 1, 1),
        "fcis_cls_seg": (98 * classes, 1024, 1, 1), "fcis_bbox": (392, 1024, 1, 1),
    }  # fmt: skip
    for name, shape in layers.items():
        state[f"arg:{name}_weight"], state[f"arg:{name}_bias"] = rows(*shape), rows(shape[0])
    state["arg:fcis_bbox_weight_test"], state["arg:fcis_bbox_bias_test"] = empty(392, 1024, 1, 1), empty(392)
    return state


@pytest.mark.parametrize("depth", [50, 101])
def test_mxnet_names_and_settings(depth: int) -> None:
    state = mxnet_state(depth, classes=81)
    assert fcis.MXNET.recognises(state)
    converted = convert_state(fcis.MXNET, state, source="fcis.params")
    assert converted.config.name == f"fcis_r{depth}_coco"
    assert converted.classes == COCO_CLASSES
    assert converted.skipped == ("arg:fcis_bbox_weight_test", "arg:fcis_bbox_bias_test")
    assert converted.config.legacy.boxes == "inclusive"
    assert converted.config.rpn.legacy.anchors == "detectron"
    assert isinstance(converted.config.backbone, ResNetConfig)
    assert converted.config.backbone.depth == depth
    assert converted.assumed
    assert (converted.state["backbone.res4.0.shortcut.norm.running_var"] == 2).all()


def test_mxnet_rows_go_where_ours_are() -> None:
    converted = convert_state(fcis.MXNET, mxnet_state(classes=4, sizes=4))
    state = converted.state
    for part in ("weight", "bias"):
        first = {name: state[f"{name}.{part}"].flatten(1)[:, 0] if part == "weight" else state[f"{name}.{part}"]
                 for name in ("rpn.objectness", "rpn.deltas", "box_head.maps", "box_head.deltas")}  # fmt: skip
        for size in range(4):
            for ratio in range(3):
                ours, theirs = size * 3 + ratio, ratio * 4 + size
                assert first["rpn.objectness"][2 * ours : 2 * ours + 2].tolist() == [theirs, 12 + theirs]
                assert first["rpn.deltas"][4 * ours : 4 * ours + 4].tolist() == [4 * theirs + i for i in range(4)]
        for label in range(4):  # the background, their first, is our last
            theirs = (label + 1) % 4
            assert first["box_head.maps"][98 * label : 98 * label + 98].tolist() == list(
                range(98 * theirs, 98 * theirs + 98)
            )
        assert first["box_head.deltas"].tolist() == list(range(196, 392))


def test_mxnet_voc() -> None:
    converted = convert_state(fcis.MXNET, mxnet_state(101, classes=21, sizes=3))
    assert converted.config.name == "fcis_r101_voc"
    assert converted.classes == VOC_CLASSES
    assert converted.config.fcis == FCISConfig(
        ohem=False, min_size=16.0, sampling=replace(FCIS_SAMPLING, min_negative_iou=0.1)
    )
    assert converted.config.rpn.anchors.sizes == ((128.0, 256.0, 512.0),)


def test_mxnet_file_by_the_command_s_way(tmp_path: Path) -> None:
    """The whole file equals the state, so reader and names work together."""
    path = tmp_path / "e2e-0008.params"
    state = mxnet_state(50, classes=2)
    path.write_bytes(params({name: value.numpy() for name, value in state.items()}, v2))
    converted = convert(path)
    expected = convert_state(fcis.MXNET, state)
    assert converted.system == "MXNet's FCIS"
    assert converted.classes == ("class_0",)
    assert set(converted.state) == set(expected.state)
    for name in ("box_head.maps.weight", "rpn.objectness.bias", "backbone.res5.2.conv3.weight"):
        assert torch.equal(converted.state[name], expected.state[name])


MISFITS: list[tuple[Callable[[dict[str, Tensor]], object], str]] = [
    (lambda state: state.pop("arg:res4a_branch2b_weight"), "missing: backbone.res4.0.conv2.weight"),
    (lambda state: state.update({"arg:fc6_weight": empty(3)}), "without a counterpart here: arg:fc6_weight"),
    (lambda state: state.update({"arg:fcis_cls_seg_weight": empty(97, 1024, 1, 1)}), "multiples of 98"),
    (lambda state: state.update({"arg:fcis_bbox_bias": empty(196)}), "box_head.deltas.bias"),
    (lambda state: state.update({"conv1_weight": empty(64, 3, 7, 7)}), "under two names"),
    (lambda state: state.pop("arg:rpn_cls_score_weight"), "rpn.objectness.weight"),
]


@pytest.mark.parametrize(("change", "words"), MISFITS)
def test_mxnet_files_that_do_not_fit(change: Callable[[dict[str, Tensor]], object], words: str) -> None:
    state = mxnet_state()
    change(state)
    with pytest.raises(ValueError, match=words) as caught:
        convert_state(fcis.MXNET, state, source="bad.params")
    assert "bad.params" in str(caught.value)


def chainer_state(shared: Path, fixture: str) -> dict[str, Tensor]:
    """Every name of a fixture, with its shape."""
    arrays = json.loads((shared / "golden/chainer" / fixture / "names.json").read_text())["arrays"]
    return {name: empty(*shape) for name, (shape, _, _) in arrays.items()}


@pytest.mark.parametrize("dataset", ["coco", "sbd"])
@pytest.mark.parametrize("peer", ["chainercv", "chainer_fcis"])
def test_chainer_names(shared: Path, peer: str, dataset: str) -> None:
    state = chainer_state(shared, f"fcis_resnet101_{dataset}_{peer}")
    system = fcis.CHAINERCV if peer == "chainercv" else fcis.CHAINER_FCIS
    converted = convert_state(system, state, None, "snapshot.npz")
    assert converted.config.name == f"fcis_r101_{dataset}_{peer.removesuffix('_fcis')}"
    assert converted.classes == (COCO_CLASSES if dataset == "coco" else VOC_CLASSES)
    assert len(converted.skipped) == 104  # how many batches each norm has seen
    # norms of another epsilon: it went into their variance
    wider = {name for name, value in converted.state.items() if name.endswith("running_var") and value.max() > 0}
    if peer == "chainercv":
        assert wider == {"backbone.stem.conv1.norm.running_var"}
    else:
        assert wider == {f"backbone.res{stage}.0.shortcut.norm.running_var" for stage in (2, 3, 4, 5)}
    torch.testing.assert_close(converted.state[min(wider)].max(), torch.tensor(1e-5))


def test_chainer_rows_go_where_ours_are(shared: Path) -> None:
    state = chainer_state(shared, "fcis_resnet101_sbd_chainercv")
    for name in ("rpn/score/b", "rpn/loc/b", "head/ag_loc/b", "head/cls_seg/b"):
        state[name] = rows(len(state[name]))
    ours = convert_state(fcis.CHAINERCV, state).state
    # ours size 1, ratio 2 is their ratio 2, size 1 of 3: anchor 7
    assert ours["rpn.objectness.bias"][10:12].tolist() == [14, 15]
    assert ours["rpn.deltas.bias"][20:24].tolist() == [29, 28, 31, 30]  # y x h w to x y w h
    assert ours["box_head.deltas.bias"][[0, 49, 98, 147]].tolist() == [196 + 49, 196, 196 + 147, 196 + 98]
    assert ours["box_head.maps.bias"][[0, -1]].tolist() == [98, 97]


def test_chainer_settings(shared: Path, tmp_path: Path) -> None:
    state = chainer_state(shared, "fcis_resnet101_coco_chainer_fcis")
    path = tmp_path / "demo.yaml"
    path.write_text("min_size: 320\nscore_thresh: 0.7\nmask_merge_thresh: 0.6\niter2: false\nlr: 0.5\nstrange: 1\n")
    converted = convert_state(fcis.CHAINER_FCIS, state, path)
    config = converted.config
    assert config.fcis is not None
    assert (config.input.min_size, config.fcis.score_threshold) == (320, 0.7)
    assert (config.fcis.vote_iou, config.fcis.refine) == (0.6, False)
    assert any("strange" in sentence and "lr" not in sentence.split(";")[0] for sentence in converted.notes)
    words = convert_state(fcis.CHAINER_FCIS, state, "min_size=200 anchor_scales=[2,4,8,16]").config
    assert (words.input.min_size, words.rpn.anchors.sizes) == (200, ((32.0, 64.0, 128.0, 256.0),))
    assert (
        convert_state(fcis.CHAINER_FCIS, state, "proposal_min_size=0").config.rpn.proposals.min_size == -1
    )  # 0 drops nothing
    path.write_text("proposal_creator_params: {min_size: 4, n_test_post_nms: 120, nms_thresh: 0.6}\n")
    rpn = convert_state(fcis.CHAINER_FCIS, state, path).config.rpn
    assert (rpn.proposals.min_size, rpn.proposals.post_nms, rpn.proposals.nms_iou, rpn.proposals.pre_nms) == (
        4,
        120,
        0.6,
        6000,
    )
    for bad in ("min_size", "min_size=[1", "min_size=many"):
        with pytest.raises(ValueError, match="min_size"):
            convert_state(fcis.CHAINER_FCIS, state, bad)
