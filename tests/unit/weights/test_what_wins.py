"""The user's settings win over the file, the file over assumptions; the report lists the source of each setting."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.ops.anchors import cell_anchors
from rcnn.weights.class_names import read_classes
from rcnn.weights.convert import report_lines
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.systems import torchvision as torchvision_files
from rcnn.weights.systems.detectron2 import system as detectron2
from rcnn.weights.systems.detectron2.export import settings_of
from rcnn.weights.systems.detectron2.system import to_detectron2
from rcnn.weights.systems.settings import read_settings
from rcnn.weights.systems.torchvision import to_torchvision
from tests.unit.blank_states import blank
from tests.unit.weights.state_dicts import convert_state

BUFFERS = {"pixel_mean": torch.full((3, 1, 1), 30.0), "pixel_std": torch.full((3, 1, 1), 2.0)}
ANCHORS = "proposal_generator.anchor_generator.cell_anchors"


def state_of(*settings: str, name: str = "faster_rcnn_r50_c4_caffe") -> dict[str, Tensor]:
    """Detectron2's state dict of a detector."""
    config = override(model_config(name), settings)
    return to_detectron2(blank(config), config)


def test_buffers_of_the_file_win_over_the_model_zoo() -> None:
    converted = convert_state(detectron2.SYSTEM, state_of() | BUFFERS)
    assert converted.config.input.pixel_mean == (30.0, 30.0, 30.0)
    assert converted.config.input.pixel_std == (2.0, 2.0, 2.0)
    assert "settings of pixel_mean, pixel_std in the file" in converted.summary
    assert not any("pixel_mean" in sentence for sentence in converted.assumed)
    zeros = {name: torch.zeros(3, 1, 1) for name in BUFFERS}  # a deviation of 0 means nothing
    assert convert_state(detectron2.SYSTEM, state_of() | zeros).config.input.pixel_mean == (103.53, 116.28, 123.675)


def test_anchors_of_the_file_win_over_the_model_zoo() -> None:
    cells = {f"{ANCHORS}.0": cell_anchors((16, 48), (0.5, 1.0, 2.0, 3.0))}
    converted = convert_state(
        detectron2.SYSTEM, state_of("rpn.anchors.sizes=[[16,48]]", "rpn.anchors.ratios=[0.5,1,2,3]") | cells
    )
    assert converted.config.rpn.anchors.sizes == ((16.0, 48.0),)
    assert converted.config.rpn.anchors.ratios == (0.5, 1.0, 2.0, 3.0)
    assert not any("rpn.anchors.sizes" in sentence for sentence in converted.assumed)


def test_settings_on_the_command_line_win_over_both_and_are_applied_before_the_check() -> None:
    theirs = state_of("rpn.anchors.ratios=[0.5,1,2,3]", name="faster_rcnn_r50_fpn_caffe")
    with pytest.raises(ValueError, match=r"depend on rpn\.anchors\.sizes and rpn\.anchors\.ratios: give"):
        convert_state(detectron2.SYSTEM, theirs)
    found = Found(state=theirs | BUFFERS)
    words = ["rpn.anchors.ratios=[0.5,1,2,3]", "input.min_size=160", "input.pixel_mean=[1,2,3]"]
    converted = detectron2.SYSTEM.convert(found, overrides=words)
    assert converted.config.rpn.anchors.ratios == (0.5, 1.0, 2.0, 3.0)
    assert converted.config.input.pixel_mean == (1.0, 2.0, 3.0)
    assert converted.state["rpn.objectness.weight"].shape[0] == 4
    size = next(sentence for sentence in converted.assumed if sentence.startswith("image size"))
    assert size == "image size: input.max_size=1333 (Detectron2's model zoo)"


def test_anchor_rows_follow_the_settings_of_the_command_line() -> None:
    """torchvision's rows are ordered by ratio first, so the order depends on the number of sizes that the user sets."""
    sizes = "rpn.anchors.sizes=[[32,48],[64,96],[128,192],[256,384],[512,768]]"
    config = override(model_config("faster_rcnn_r50_fpn"), [sizes])
    state = blank(config) | {"rpn.objectness.bias": torch.arange(6.0)}
    found = Found(state=to_torchvision(state, config))
    converted = torchvision_files.SYSTEM.convert(found, overrides=[sizes])
    assert converted.state["rpn.objectness.bias"].tolist() == [0, 1, 2, 3, 4, 5]


def test_the_report_lists_the_users_settings() -> None:
    config = model_config("faster_rcnn_r50_fpn")
    found = Found(state=to_torchvision(blank(config), config))
    words = ["input.min_size=160", "input.max_size=200"]
    converted = torchvision_files.SYSTEM.convert(found, overrides=words)
    lines = "\n".join(report_lines(converted, converted.state, Path("a.pth"), "torch.save", words))
    assert "set on the command line:\n    input.min_size=160\n    input.max_size=200" in lines
    assert "image size" not in lines
    assert "800" not in lines


@pytest.mark.parametrize("read", [read_settings, read_classes])
def test_text_longer_than_a_file_name_is_not_a_path(read: Callable[[str], object]) -> None:
    words = " ".join(f"KEY.NUMBER_{i}={i}" for i in range(30))
    assert len(words) > 300
    found = read(words)
    assert found == {f"KEY.NUMBER_{i}": i for i in range(30)} or found == (words,)


def test_key_value_settings_of_detectron2() -> None:
    words = " ".join(["MODEL.ROI_HEADS.NMS_THRESH_TEST=0.4 INPUT.MIN_SIZE_TEST=640", *["SOLVER.BASE_LR=0.01"] * 20])
    assert len(words) > 300
    converted = convert_state(detectron2.SYSTEM, state_of(), words)
    assert (converted.config.box.selection.nms_iou, converted.config.input.min_size) == (0.4, 640)
    with pytest.raises(FileNotFoundError, match="does not exist; expected Detectron2's YAML"):
        convert_state(detectron2.SYSTEM, state_of(), "x" * 400)


@pytest.mark.parametrize(("name", "backbone"), [("x50_32x4d", (32, 4)), ("wide", (1, 128))])
def test_torchvision_on_resnext_and_wide_resnets(name: str, backbone: tuple[int, int]) -> None:
    groups, width = backbone
    settings = [f"backbone.groups={groups}", f"backbone.width_per_group={width}"]
    config = override(model_config("mask_rcnn_r50_fpn"), settings)
    converted = convert_state(torchvision_files.SYSTEM, to_torchvision(blank(config), config))
    assert converted.config.backbone == config.backbone


def test_torchvision_on_another_network_is_refused_in_one_line() -> None:
    config = model_config("faster_rcnn_r50_fpn")
    state = to_torchvision(blank(config), config)
    other = {name.replace("backbone.body.", "backbone."): value for name, value in state.items()}
    with pytest.raises(ValueError, match=r"on a network that rcnn does not support \(backbone\.") as caught:
        convert_state(torchvision_files.SYSTEM, other)
    assert len(str(caught.value)) < 400


def test_a_file_name_with_320_in_it_decides_nothing() -> None:
    config = model_config("faster_rcnn_mobilenet_v3_large_fpn")
    state = to_torchvision(blank(config), config)
    for source, size in (("epoch_320.pth", 800), ("a/fasterrcnn_mobilenet_v3_large_320_fpn-907ea3f9.pth", 320)):
        converted = convert_state(torchvision_files.SYSTEM, state, source=source)
        assert converted.config.input.min_size == size
        assert any("known by its name" in sentence for sentence in converted.assumed) == (size == 320)
    assert convert_state(torchvision_files.SYSTEM, state, source="my_maskrcnn_resnet50_fpn_coco_old.pth")


@pytest.mark.parametrize("name", ["faster_rcnn_r50_fpn_caffe", "mask_rcnn_r50_c4_caffe"])
def test_detectron2s_yaml_always_has_the_number_of_classes(name: str) -> None:
    config = model_config(name)
    assert config.num_classes == 80
    assert "NUM_CLASSES: 80" in settings_of(config)
