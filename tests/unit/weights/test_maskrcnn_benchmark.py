"""maskrcnn-benchmark's files: Detectron's network under other names, recognized by content; settings and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.models import DetectorConfig
from rcnn.models.config import ResNetConfig
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems.detectron import system as detectron
from rcnn.weights.systems.known import convert, convert_found
from rcnn.weights.systems.maskrcnn_benchmark import SYSTEM
from tests.unit.weights.detectron_blobs import blobs
from tests.unit.weights.state_dicts import convert_state

HEADS = {
    "rpn.convs.0": "rpn.head.conv", "rpn.objectness": "rpn.head.cls_logits", "rpn.deltas": "rpn.head.bbox_pred",
    "box_head.trunk.fc1": "roi_heads.box.feature_extractor.fc6",
    "box_head.trunk.fc2": "roi_heads.box.feature_extractor.fc7",
    "box_head.logits": "roi_heads.box.predictor.cls_score", "box_head.deltas": "roi_heads.box.predictor.bbox_pred",
    "mask_head.deconv": "roi_heads.mask.predictor.conv5_mask",
    "mask_head.logits": "roi_heads.mask.predictor.mask_fcn_logits",
}  # fmt: skip


def their_name(ours: str) -> str:
    """maskrcnn-benchmark's name, from its source, for our name of a blob of Detectron."""
    layer, _, value = ours.rpartition(".")
    if layer in HEADS:
        return f"{HEADS[layer]}.{value}"
    if layer.startswith("mask_head.trunk.conv"):
        return f"roi_heads.mask.feature_extractor.mask_fcn{layer[-1]}.{value}"
    if layer.startswith("fpn."):
        return f"backbone.fpn.fpn_{'inner' if 'lateral' in layer else 'layer'}{int(layer[-1]) - 1}.{value}"
    norm = layer.endswith(".norm")
    layer = layer.removesuffix(".norm")
    if layer == "backbone.stem.conv1":
        return f"backbone.body.stem.{'bn1' if norm else 'conv1'}.{value}"
    place, block, conv = layer.removeprefix("backbone.res").removeprefix("box_head.trunk.res").split(".")
    trunk = "backbone.body" if layer.startswith("backbone.") else "roi_heads.box.feature_extractor.head"
    inner = f"downsample.{int(norm)}" if conv == "shortcut" else f"bn{conv[-1]}" if norm else conv
    return f"{trunk}.layer{int(place) - 1}.{block}.{inner}.{value}"


def theirs(fpn: bool = True) -> tuple[dict[str, Tensor], dict[str, Tensor], DetectorConfig]:
    """Their file with the tensors of a Detectron file, the result of Detectron's converter, and its config."""
    caffe = {name: torch.from_numpy(value) for name, value in blobs(fpn=fpn, masks=True).items()}
    found = Found(state=caffe)
    plan = detectron.read(found, None)
    ours = detectron.SYSTEM.convert(found)
    file = {their_name(name): caffe[blob] for blob, name in plan.placed.ours.items()}
    for name in [name for name in file if name.endswith(("bn1.weight", "bn2.weight", "bn3.weight", "sample.1.weight"))]:
        norm = name.removesuffix("weight")
        file[f"{norm}running_mean"] = torch.zeros(len(file[name]))
        file[f"{norm}running_var"] = torch.ones(len(file[name]))
    return file, ours.state, ours.config


@pytest.mark.parametrize("fpn", [True, False])
def test_it_is_detectrons_network_under_other_names(fpn: bool) -> None:
    file, state, config = theirs(fpn)
    file["rpn.anchor_generator.cell_anchors.0"] = torch.zeros(3, 4)
    converted = convert_found(Found(state=file))
    assert converted.system == "maskrcnn-benchmark"
    assert converted.state.keys() == state.keys()
    assert all(torch.equal(converted.state[name], value) for name, value in state.items())
    ours = converted.config
    assert (ours.legacy.boxes, ours.box, ours.mask) == ("inclusive", config.box, config.mask)
    assert isinstance(converted.config.backbone, ResNetConfig)
    assert converted.config.backbone.norm_eps == 0
    assert converted.skipped == ("rpn.anchor_generator.cell_anchors.0",)


def cell(sizes: tuple[int, ...], stride: int) -> Tensor:
    """Anchors as in maskrcnn-benchmark's `generate_anchors`, for its ratios 0.5, 1, 2; a slow loop."""
    shapes = {4: ((6, 3), (4, 4), (3, 6)), 16: ((23, 12), (16, 16), (11, 22)), 8: ((11, 6), (8, 8), (6, 12))}[stride]
    middle = (stride - 1) / 2
    anchors = []
    for width, height in shapes:
        for size in sizes:
            w, h = width * size / stride, height * size / stride
            anchors.append([middle - (w - 1) / 2, middle - (h - 1) / 2, middle + (w - 1) / 2, middle + (h - 1) / 2])
    return torch.tensor(anchors)


def test_anchors_of_settings_and_of_the_file() -> None:
    file, _, _ = theirs(fpn=True)
    buffers = {f"rpn.anchor_generator.cell_anchors.{i}": cell((size,), s) for i, size, s in ((0, 24, 4), (1, 48, 8))}
    words = "MODEL.RPN.ANCHOR_SIZES=(24,48,100,200,400) INPUT.PIXEL_STD=[57,58,59] INPUT.TO_BGR255=True"
    given = convert_state(SYSTEM, file | buffers, words)
    assert given.config.rpn.anchors.sizes == ((24,), (48,), (100,), (200,), (400,))
    assert given.config.input.pixel_std == (57, 58, 59)
    assert not given.notes
    with pytest.raises(ValueError, match=r"cell_anchors\.0 has the anchors .*: give MODEL\.RPN\.ANCHOR_SIZES"):
        convert_state(SYSTEM, file | buffers)
    c4, _, _ = theirs(fpn=False)
    buffer = {"rpn.anchor_generator.cell_anchors.0": cell((32, 64, 128, 256, 512), 16)}
    assert not any(line.startswith("anchors") for line in convert_state(SYSTEM, c4 | buffer).assumed)
    for words, message in (
        ("MODEL.RPN.ANCHOR_SIZES=(24,48,100,200)", "one size for each of the 5 levels"),
        ("MODEL.RPN.ANCHOR_SIZES=64", "MODEL.RPN.ANCHOR_SIZES=64 has the wrong type"),
        ("MODEL.RPN.ANCHOR_SIZES=[]", "one size for each of the 5 levels"),
        ("INPUT.TO_BGR255=False", "INPUT.TO_BGR255=False is not supported; expected True"),
        ("MODEL.RESNETS.RES5_DILATION=2", "RES5_DILATION=2 is not supported; expected 1"),
    ):
        with pytest.raises(ValueError, match=message):
            convert_state(SYSTEM, file, words)


def test_a_training_file_with_settings(tmp_path: Path) -> None:
    file, _, _ = theirs()
    wrapped = {f"module.{name}": value for name, value in file.items()}
    torch.save({"model": wrapped, "optimizer": {"state": {}}, "iteration": 9}, tmp_path / "model.pth")
    (tmp_path / "c.yaml").write_text(
        "MODEL: {ROI_HEADS: {NMS: 0.4}, BACKBONE: {CONV_BODY: R-50-FPN}, RPN: {USE_FPN: true}}\n"
        "INPUT: {MIN_SIZE_TEST: 640}\nSOLVER: {BASE_LR: 0.01}\nSTRANGE: 1\n"
    )
    converted = convert(tmp_path / "model.pth", tmp_path / "c.yaml")
    assert (converted.config.box.selection.nms_iou, converted.config.input.min_size) == (0.4, 640)
    assert converted.notes == ("settings that are not used: STRANGE",)
    words = convert_state(SYSTEM, file, "MODEL.ROI_HEADS.NMS=0.3").config
    assert words.box.selection.nms_iou == 0.3
    with pytest.raises(ValueError, match=r"without a counterpart here: roi_heads\.box\.xconvs"):
        convert_state(SYSTEM, file | {"roi_heads.box.xconvs": torch.zeros(1)})
