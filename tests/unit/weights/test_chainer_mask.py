"""Files of the two Chainer Mask R-CNNs: every published architecture converts, settings are used, no code is run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.models import model_config
from rcnn.models.config import ResNetConfig
from rcnn.models.overrides import override
from rcnn.weights.systems.chainer import system as chainer
from rcnn.weights.systems.chainer.settings import read_chainer_settings
from rcnn.weights.systems.chainer.system import (
    RULES,
    in_our_layout,
)
from rcnn.weights.systems.converted import Converted
from tests.unit.weights.state_dicts import convert_state


def published(shared: Path, pattern: str = "mask_rcnn_*") -> dict[str, dict[str, Tensor]]:
    """The tensors of each recorded architecture, by name and shape: zeros that take no memory."""
    found = {}
    for folder in sorted((shared / "golden/chainer").glob(pattern)):
        arrays = json.loads((folder / "names.json").read_text())["arrays"]
        found[folder.name] = {name: torch.zeros(()).expand(shape) for name, (shape, _, _) in arrays.items()}
    return found


@pytest.fixture(scope="module")
def wkentaro(shared: Path) -> dict[str, Tensor]:
    return published(shared, "mask_rcnn_resnet50_voc_wkentaro_names_only").popitem()[1]


@pytest.fixture(scope="module")
def dena(shared: Path) -> dict[str, Tensor]:
    return published(shared, "mask_rcnn_resnet50_coco_dena").popitem()[1]


def test_every_recorded_architecture_has_its_place(shared: Path) -> None:
    models = published(shared)
    assert len(models) == 6
    for name, state in models.items():
        assert chainer.WKENTARO.recognises(state) == ("wkentaro" in name)
        assert chainer.DENA.recognises(state) == ("dena" in name)
        converted: Converted = convert_state(
            chainer.WKENTARO if "wkentaro" in name else chainer.DENA, state, source=name
        )
        config, coco = converted.config, "coco" in name
        assert config.name == f"mask_rcnn_r{101 if 'resnet101' in name else 50}_c4"
        assert config.num_classes == (80 if coco else 20)
        assert (config.input.min_size, config.input.max_size) == ((800, 1333) if coco else (600, 1000))
        assert converted.classes[0] == ("person" if coco else "aeroplane")
        counters = [left for left in converted.skipped if left.endswith("/N")]
        assert bool(counters) == ("dena" in name)


def test_rows_by_hand() -> None:
    """Two sizes, three ratios, four rows each: theirs are ordered by ratio with y before x, ours by size."""
    config = override(model_config("mask_rcnn_r50_c4"), ["rpn.anchors.sizes=[[32,64]]", "num_classes=3"])
    theirs = torch.arange(24.0)[:, None]
    ours = in_our_layout("rpn.deltas.weight", theirs, config)[:, 0].tolist()
    # their anchors are (ratio 0, size 0), (ratio 0, size 1), (ratio 1, size 0), ...
    assert ours[:8] == [1, 0, 3, 2, 9, 8, 11, 10]
    assert ours[12:16] == [5, 4, 7, 6]
    scores = in_our_layout("box_head.logits.bias", torch.tensor([9.0, 1, 2, 3]), config)
    assert scores.tolist() == [1, 2, 3, 9]  # background goes last
    boxes = in_our_layout("box_head.deltas.bias", torch.arange(8.0), config)
    assert boxes.tolist() == [5, 4, 7, 6]
    assert len(in_our_layout("mask_head.logits.bias", torch.zeros(4), config)) == 3
    assert len(in_our_layout("mask_head.logits.bias", torch.zeros(3), config)) == 3


def test_names_by_hand() -> None:
    assert RULES.rename("extractor/res4/b12/conv2/W") == "backbone.res4.12.conv2.weight"
    assert RULES.rename("extractor/res3/a/bn4/avg_var") == "backbone.res3.0.shortcut.norm.running_var"
    assert RULES.rename("head/res5/b2/bn3/b") == "box_head.trunk.res5.2.conv3.norm.bias"
    assert RULES.rename("head/fc9/W") is None


def test_the_stems_bias_goes_into_its_norm(wkentaro: dict[str, Tensor]) -> None:
    draw = torch.Generator().manual_seed(0)
    stem = {
        name: torch.randn(64, generator=draw) for name in ("extractor/conv1/b", "extractor/bn1/W", "extractor/bn1/b")
    }
    tensors = convert_state(chainer.WKENTARO, wkentaro | stem).state
    x = torch.randn(5, 64, generator=draw)
    norm = "backbone.stem.conv1.norm"
    scale = tensors[f"{norm}.weight"] * tensors[f"{norm}.running_var"].rsqrt()  # eps is 0
    ours = (x - tensors[f"{norm}.running_mean"]) * scale + tensors[f"{norm}.bias"]
    theirs = (x + stem["extractor/conv1/b"]) * stem["extractor/bn1/W"] + stem["extractor/bn1/b"]
    torch.testing.assert_close(ours, theirs)


def test_params_yaml_of_a_run(wkentaro: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(
        "anchor_scales: !!python/tuple\n- 4\n- 8\n- 16\n- 32\nclass_names: !!python/tuple\n"
        + "".join(f"- thing{i}\n" for i in range(20))
        + "min_size: 640\nmax_size: 1024\nmodel: resnet50\npooling_func: resize\nroi_size: 7\nlr: 0.01\n"
        "step_size: !!python/tuple [8.1, 10.8]\nstrange: 1\n"
        "git_hash: !!python/object/apply:os.getcwd []\nmean: !!python/tuple [1.0, 2.0, 3.0]\n"
    )
    converted = convert_state(chainer.WKENTARO, wkentaro, file)
    config = converted.config
    assert isinstance(config.backbone, ResNetConfig)
    assert (config.input.min_size, config.input.max_size) == (640, 1024)
    assert config.input.pixel_mean == (1.0, 2.0, 3.0)
    assert (config.box.pooler.kind, config.box.pooler.size, config.backbone.res5_stride) == ("crop_resize", 7, 1)
    assert converted.classes[3] == "thing3"
    assert any("strange" in sentence for sentence in converted.notes)
    assert any("lr, step_size" in sentence for sentence in converted.notes)


def test_the_log_of_a_run_older_than_roi_size_means_seven(wkentaro: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    for text, size in (("git_hash: abc\n", 7), ("git_hash: abc\nroi_size: 14\n", 14), ("max_size: 900\n", 14)):
        file.write_text("min_size: 600\n" + text)
        converted = convert_state(chainer.WKENTARO, wkentaro, file)
        assert converted.config.box.pooler.size == size
        assert any("box.pooler.size=7" in sentence for sentence in converted.assumed) == (size == 7)


def test_thresholds_as_yaml_and_people_write_them(wkentaro: dict[str, Tensor]) -> None:
    box = convert_state(chainer.WKENTARO, wkentaro, "score_thresh=0 nms_thresh=0.4").config.box
    assert (box.score_threshold, box.selection.nms_iou) == (0.0, 0.4)
    assert convert_state(chainer.WKENTARO, wkentaro, "score_thresh=1e-3").config.box.score_threshold == 0.001


def test_flags_of_a_command_line(dena: dict[str, Tensor]) -> None:
    plain, parsed = (
        convert_state(chainer.DENA, dena),
        convert_state(chainer.DENA, dena, "--bn2affine --freeze_bn --roialign --roi_size 7 --gpu 0"),
    )
    assert isinstance(plain.config.backbone, ResNetConfig)
    assert isinstance(parsed.config.backbone, ResNetConfig)
    assert (plain.config.backbone.norm_eps, parsed.config.backbone.norm_eps) == (2e-5, 0.0)
    assert (plain.config.backbone.trained_affine, parsed.config.backbone.trained_affine) == (True, False)
    assert (plain.config.box.pooler.kind, parsed.config.box.pooler.kind) == ("roi_align", "roi_pool")
    variance = "backbone.res2.0.conv1.norm.running_var"
    assert plain.state[variance].eq(0).all()  # unchanged from the file
    assert parsed.state[variance].eq(1).all()


def test_a_trainers_snapshot_has_the_model_inside(wkentaro: dict[str, Tensor]) -> None:
    snapshot = {f"updater/model:main/mask_rcnn/{name}": value for name, value in wkentaro.items()}
    snapshot |= {"updater/iteration": torch.tensor(5), "updater/optimizer:main/t": torch.tensor(5)}
    assert chainer.WKENTARO.recognises(snapshot)
    assert set(convert_state(chainer.WKENTARO, snapshot).skipped) == {"updater/iteration", "updater/optimizer:main/t"}


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("min_size=big", "min_size='big' has the wrong type; expected an integer"),
        ("pooling_func=warp", "expected 'align' or 'pooling' or 'resize'"),
        ("anchor_scales=[4,8]", "rpn.anchors.sizes and rpn.anchors.ratios"),
        ("anchor_scales=['a']", "anchor_scales"),
        ("score_thresh=low", "score_thresh='low' has the wrong type; expected a number"),
        ("roi_size=21", "roi_size is 21"),
        ("nowhere.yaml", "neither a file nor settings"),
    ],
)
def test_invalid_settings(wkentaro: dict[str, Tensor], words: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        convert_state(chainer.WKENTARO, wkentaro, words)


@pytest.mark.parametrize("text", ["[" * 5000, "a: b: c", "- 1\n- 2\n", "\x00", "5"])
def test_files_that_are_no_settings(text: str, tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match="params"):
        read_chainer_settings(file)


def test_missing_tensors_are_named(wkentaro: dict[str, Tensor]) -> None:
    state = {name: value for name, value in wkentaro.items() if name != "head/deconv6/W"}
    with pytest.raises(ValueError, match=r"mask_head\.deconv\.weight"):
        convert_state(chainer.WKENTARO, state)
    with pytest.raises(ValueError, match="head/fc9/W"):
        convert_state(chainer.WKENTARO, wkentaro | {"head/fc9/W": torch.zeros(1)})
