"""tensorpack's files: every published architecture converts, variants equal a reference forward pass."""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typing_extensions import TypedDict, Unpack

from rcnn.models import DetectorConfig
from rcnn.models.config import ResNetConfig
from rcnn.models.overrides import override
from rcnn.structures import ImageBatch, Targets
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems.settings import typed_settings
from rcnn.weights.systems.tensorpack import system as tensorpack
from rcnn.weights.systems.tensorpack.settings import TRAINING, Settings
from tests.compiled import FORWARD
from tests.known_features import known_features
from tests.parity.golden_detectron2 import match_sets
from tests.parity.peer_tensorpack import SETTINGS, peer_image, peer_shapes, peer_value
from tests.unit.weights.state_dicts import convert_state
from tests.unit.weights.tensorpack_forward import Forward

# facts/tensorpack.md, 6.2: tensors of each published architecture; those of the graphs that were dumped
CONFIGS = 19
ELEMENTS = {"fpn": 44_453_556, "c4": 36_024_048, "fpngn": 45_719_348, "r101scratch": 94_974_622}


class Network(TypedDict, total=False, closed=True):
    """Options of `peer_shapes`."""

    pyramid: bool
    norm: str
    head: str
    head_norm: bool
    cascade: bool


class Rules(TypedDict, total=False, closed=True):
    """Options of `Forward`."""

    tf_pad: bool
    stride_1x1: bool
    topk: int
    results: int


def graphs(shared: Path) -> dict[str, tuple[str, dict[str, tuple[int, ...]]]]:
    """Overrides, and shapes by name, of each configuration that was dumped from the real program."""
    found: dict[str, tuple[str, dict[str, tuple[int, ...]]]] = defaultdict(lambda: ("", {}))
    with (shared / "facts/tensorpack_vars.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            shape = tuple(int(side) for side in row["shape"].split("x")) if row["shape"] else ()
            found[row["config"]] = (row["command_line_overrides"], {**found[row["config"]][1], row["name"]: shape})
    return dict(found)


def test_every_dumped_graph_has_its_place(shared: Path) -> None:
    dumped = graphs(shared)
    assert len(dumped) == CONFIGS
    for name, (words, shapes) in dumped.items():
        state = {f"{key}:0": torch.empty(shape, device="meta") for key, shape in shapes.items()}
        assert tensorpack.SYSTEM.recognises(state)
        converted = convert_state(
            tensorpack.SYSTEM, state, words or None, name
        )  # require_fit has compared names and shapes
        assert not converted.skipped
        if name in ELEMENTS:
            assert sum(value.numel() for value in state.values()) == ELEMENTS[name]
        backbone = converted.config.backbone
        assert isinstance(backbone, ResNetConfig)
        assert backbone.depth == (101 if name.startswith("r101") else 50)
        assert (converted.config.fpn is None) == ("c4" in name)
        assert (converted.config.cascade is not None) == ("CASCADE" in words)
        assert (converted.config.mask is not None) == ("MODE_MASK=False" not in words)


FEW_WORDS = "RPN.TEST_POST_NMS_TOPK=20 TEST.RESULTS_PER_IM=10"  # the last stage of C4 runs once for each region
FEW: Rules = {"topk": 20, "results": 10}
VARIANTS: dict[str, tuple[Network, str, Rules]] = {
    "all group norm": ({"norm": "gn", "head": "4conv1fc", "head_norm": True}, "BACKBONE.FREEZE_AT=0", {}),
    "4conv1fc": ({"head": "4conv1fc"}, "", {}),
    "cascade": ({"cascade": True}, "", {}),
    "cascade, group norm": ({"cascade": True, "norm": "gn", "head": "4conv1fc", "head_norm": True}, "", {}),
    "TensorFlow's padding": ({}, "BACKBONE.TF_PAD_MODE=True", {"tf_pad": True}),
    "C4": ({"pyramid": False}, FEW_WORDS, FEW),
    "C4, TensorFlow's padding": ({"pyramid": False}, f"{FEW_WORDS} BACKBONE.TF_PAD_MODE=True", {"tf_pad": True, **FEW}),
    "C4, stride in the 1x1": ({"pyramid": False}, f"{FEW_WORDS} BACKBONE.STRIDE_1X1=True", {"stride_1x1": True, **FEW}),
    "no norm": ({"norm": "none"}, "", {}),
    "synchronised norm": ({}, "BACKBONE.NORM=SyncBN", {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_variants_equal_the_reference_forward_pass(variant: str) -> None:
    network, words, rules = VARIANTS[variant]
    weights = {name: peer_value(name, shape) for name, shape in peer_shapes(**network).items()}
    if network.get("norm") == "none":  # nothing else keeps the maps from growing
        weights = {name: value * (0.5 if "/conv" in name else 1) for name, value in weights.items()}
    converted = convert_state(
        tensorpack.SYSTEM, {k: torch.from_numpy(v) for k, v in weights.items()}, f"{SETTINGS} {words}"
    )
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    image = peer_image()
    found = detector.eval().predict(batch_of(image, converted.config.input.divisor))
    boxes, scores, labels, masks = Forward(weights, **rules).detect(image)
    real = found.valid[0]
    order = match_sets(found.boxes[0][real].numpy(), boxes.numpy(), found.labels[0][real].numpy(), labels.numpy())
    assert len(boxes) > 5
    torch.testing.assert_close(found.boxes[0][real][order], boxes, atol=2e-3, rtol=0)
    torch.testing.assert_close(found.scores[0][real][order], scores, atol=1e-4, rtol=0)
    assert found.masks is not None
    torch.testing.assert_close(found.masks[0][real][order], masks, atol=1e-4, rtol=0)


@pytest.mark.compile
@pytest.mark.parametrize("pyramid", [True, False])
def test_losses_equal_the_reference_losses(pyramid: bool) -> None:
    """All anchors and regions are sampled; RPN losses are divided by the sample size, not tensorpack's constant."""
    weights = {name: peer_value(name, shape) for name, shape in peer_shapes(pyramid=pyramid).items()}
    topk = 60 if pyramid else 20  # the last stage of C4 runs once for each region
    words = f"{SETTINGS} RPN.TRAIN_PRE_NMS_TOPK=120 RPN.TRAIN_POST_NMS_TOPK={topk} MODE_FPN={pyramid}"
    converted = convert_state(tensorpack.SYSTEM, {k: torch.from_numpy(v) for k, v in weights.items()}, words)
    everything = ["rpn.sampling.batch_size=9000", "rpn.legacy.normalizer=sampled", "box.sampling.batch_size=400"]
    detector = empty_detector(override(converted.config, everything))
    detector.load_state_dict(converted.state)
    boxes = torch.tensor([[12.0, 10.0, 60.0, 70.0], [70.5, 30.2, 139.0, 101.0], [30.0, 60.0, 50.0, 82.0], [3, 3, 9, 8]])
    labels = torch.tensor([3, 1, 5, 2])
    masks = torch.zeros(4, 101, 139, dtype=torch.bool)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y1:y2, x1:x2] = torch.ones(y2 - y1, x2 - x1).tril() > 0
    image = peer_image()
    images = batch_of(image, converted.config.input.divisor)
    bitmaps = torch.zeros(1, 4, *images.pixels.shape[2:], dtype=torch.bool)
    bitmaps[0, :, :101, :139] = masks
    targets = Targets(
        boxes=boxes[None], labels=labels[None] - 1, valid=torch.ones(1, 4, dtype=torch.bool), bitmaps=bitmaps
    )
    with torch.no_grad():
        maps = detector.features(images)
        losses = detector.losses(images, targets, torch.tensor(0))
        expected = Forward(weights, topk=topk).losses(image, boxes, labels, masks)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4), name
    torch._dynamo.reset()
    with torch.no_grad(), known_features(detector, maps):  # test_resnet.py compiles backbones
        compiled = torch.compile(detector.losses, fullgraph=True, backend=FORWARD)(images, targets, torch.tensor(0))
    for name, value in losses.items():
        assert compiled[name].item() == pytest.approx(value.item(), rel=1e-4), name


def batch_of(image: np.ndarray, divisor: int) -> ImageBatch:
    """One image (H, W, 3) BGR, padded."""
    pixels = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)
    height, width = pixels.shape[1:]
    divisor = divisor or 1
    padded = torch.zeros(1, 3, -(-height // divisor) * divisor, -(-width // divisor) * divisor, dtype=torch.uint8)
    padded[0, :, :height, :width] = pixels
    return ImageBatch(pixels=padded, sizes=torch.tensor([[height, width]]))


def tiny(**network: Unpack[Network]) -> dict[str, Tensor]:
    return {name: torch.zeros(shape) for name, shape in peer_shapes(**network).items()}


def config(words: str | Path | None = None, **network: Unpack[Network]) -> DetectorConfig:
    return convert_state(tensorpack.SYSTEM, tiny(**network), words).config


def test_settings_of_the_finalizer() -> None:
    """With FPN the longest side becomes a multiple of 32, which also limits decoded scales; with C4 it does not."""
    pyramid, single = config(), config(pyramid=False)
    assert (pyramid.input.max_size, single.input.max_size) == (1344, 1333)
    assert pyramid.box.max_log_scale == pyramid.rpn.max_log_scale == math.log(1344 / 16)
    assert single.box.max_log_scale == math.log(1333 / 16)
    assert pyramid.input.pixel_mean == (103.53, 116.28, 123.675)  # BGR
    assert (pyramid.rpn.proposals.pre_nms_train, pyramid.rpn.proposals.pre_nms, single.rpn.proposals.pre_nms_train) == (
        2000,
        1000,
        12000,
    )
    assert config("FPN.PROPOSAL_MODE=Joint").rpn.legacy.joint_levels
    assert config("FPN.PROPOSAL_MODE=Joint").rpn.proposals.pre_nms == 6000
    assert config("FPN.CASCADE=True", pyramid=False) == single  # without a pyramid it is passed over


def test_optimizer_and_counters_are_skipped() -> None:
    state = tiny() | {
        "conv0/W/Momentum:0": torch.zeros(7, 7, 3, 64), "learning_rate:0": torch.zeros(()),
        "global_step:0": torch.zeros(()), "EMA/total_loss:0": torch.zeros(()), "AccumGrad/counter:0": torch.zeros(()),
        "rpn/conv0/W/AccumGrad:0": torch.zeros(1),
    }  # fmt: skip
    converted = convert_state(tensorpack.SYSTEM, state)
    assert len(converted.skipped) == 6
    assert "conv0/W/Momentum:0" in converted.skipped
    with pytest.raises(ValueError, match=r"some\.npz.*rpn/strange/W"):
        convert_state(tensorpack.SYSTEM, tiny() | {"rpn/strange/W": torch.zeros(1)}, source="some.npz")


def test_a_file_of_another_class_count() -> None:
    state = tiny()
    state["fastrcnn/outputs/class/W"] = torch.zeros(64, 4)
    state["fastrcnn/outputs/class/b"] = torch.zeros(4)
    with pytest.raises(ValueError, match=r"another shape: box_head\.deltas"):
        convert_state(tensorpack.SYSTEM, state)


@pytest.mark.parametrize(
    "words",
    [
        "MODE_FPN=True PREPROC.MAX_SIZE=1024 DATA.TRAIN=('a','b') TRAIN.LR_SCHEDULE=[1000] BACKBONE.STRANGE=1",
        "--config MODE_FPN=True\n--config PREPROC.MAX_SIZE=1024 \\\n DATA.TRAIN='a' TRAIN.LR_SCHEDULE=1x "
        "BACKBONE.STRANGE=1",
        "# notes\nMODE_FPN=True\n'PREPROC.MAX_SIZE=1024'\n\"DATA.TRAIN=('a', 'b')\"\nTRAIN.LR_SCHEDULE=9x\n"
        "BACKBONE.STRANGE=x",
        "{'MODE_FPN': True, 'PREPROC': {'MAX_SIZE': 1024},\n 'DATA': {'TRAIN': ('a', )}, 'TRAIN': {'LR_SCHEDULE': [1]},"
        " 'BACKBONE': {'STRANGE': 1}}",
    ],
)
@pytest.mark.parametrize("as_file", [False, True])
def test_settings_are_read_as_people_write_them(words: str, as_file: bool, tmp_path: Path) -> None:
    given: str | Path = words
    if as_file:
        given = tmp_path / "settings.txt"
        given.write_text(words)
    settings = typed_settings(Settings, given)
    assert settings.given == {"MODE_FPN", "PREPROC.MAX_SIZE"}
    assert settings.values.preproc_max_size == 1024
    assert settings.notes(TRAINING) == (
        "training settings, not used: DATA.TRAIN, TRAIN.LR_SCHEDULE",
        "unknown settings, ignored: BACKBONE.STRANGE",
    )
    assumed = convert_state(tensorpack.SYSTEM, tiny(), given).notes
    assert any("BACKBONE.STRANGE" in sentence for sentence in assumed)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("MODE_FPN=False", "MODE_FPN=False in the settings contradicts the tensors of the file, which have True"),
        ("PREPROC.MAX_SIZE=large", "'large'"),
        ("BACKBONE.STRIDE_1X1=1", "expected a value such as False"),
        ("BACKBONE.NORM=Batch", "expected 'FreezeBN' or 'SyncBN'"),
        ("PREPROC.MAX_SIZE=__import__('os').getcwd()", "__import__"),
        ("FPN.ANCHOR_STRIDES=(8,16,32,64,128)", "FPN.ANCHOR_STRIDES=(8, 16"),
        ("nowhere.txt", "neither a file nor settings"),
    ],
)
def test_invalid_settings(words: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        convert_state(tensorpack.SYSTEM, tiny(), words)
