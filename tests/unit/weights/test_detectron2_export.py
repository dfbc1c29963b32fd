"""Export to Detectron2: settings its YAML lacks, unsupported networks, norms with another eps."""

from __future__ import annotations

import pytest
import torch
import yaml

from rcnn.models import model_config
from rcnn.models.overrides import override
from rcnn.weights.systems.detectron2.export import not_expressed, settings_of
from rcnn.weights.systems.detectron2.system import to_detectron2


def test_export_reports_settings_that_detectron2_lacks() -> None:
    config = override(
        model_config("mask_rcnn_r50_fpn"),
        ["rpn.legacy.anchors=torchvision", "box.selection.nms=soft_linear", "legacy.boxes=inclusive"],
    )
    said = not_expressed(config)
    assert {line.split("=")[0] for line in said} == {"rpn.legacy.anchors", "box.selection.nms", "legacy.boxes"}
    text = settings_of(config)
    assert all(f"# not a setting of Detectron2: {line}" in text for line in said)
    assert yaml.safe_load(text)["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is False
    assert "&id" not in text


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("mask_rcnn_compact", [], "kind compact"),
        ("mask_rcnn_r50_fpn", ["rpn.legacy.objectness=softmax"], "rpn.legacy.objectness=softmax"),
        ("mask_rcnn_r50_fpn", ["backbone.norm=none"], "folded"),
        ("mask_rcnn_r50_fpn", ["mask.norm=ln"], "layer norm"),
        ("mask_rcnn_r50_fpn", ["fpn.norm=gn", "fpn.conv_bias=true"], "fpn.conv_bias"),
    ],
)
def test_networks_that_detectron2_does_not_have(name: str, change: list[str], message: str) -> None:
    config = override(model_config(name), change)
    for function in (lambda: to_detectron2({}, config), lambda: settings_of(config)):
        with pytest.raises(ValueError, match=message):
            function()


def test_export_moves_another_eps_into_the_variances() -> None:
    config = override(model_config("faster_rcnn_r50_c4"), ["backbone.norm_eps=0.0"])
    variance = torch.tensor([1.0, 0.25, 3.0, 1e-3])
    name = "backbone.stem.conv1.norm.running_var"
    theirs = to_detectron2({name: variance, "backbone.stem.conv1.norm.weight": variance}, config)
    torch.testing.assert_close(theirs[name] + 1e-5, variance, rtol=1e-7, atol=0)
    assert (theirs[name][0] + 1e-5).rsqrt() == 1  # an AffineChannel stays what it is, to the bit
    assert torch.equal(theirs["backbone.stem.conv1.norm.weight"], variance)
