"""torchvision's newer R-CNNs live, with the same random weights: version 2 and MobileNetV3, both ways."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN

from rcnn.models import Detector
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems import torchvision as torchvision_files
from rcnn.weights.systems.torchvision import to_torchvision
from tests.deviations import assert_within
from tests.parity.test_torchvision_models import (
    CLASSES,
    batch_of,
    images,
    our_targets,
    sample_everything,
    sizes_of,
    their_targets,
)
from tests.unit.weights.state_dicts import convert_state

PEERS: dict[str, Callable[..., FasterRCNN]] = {
    "faster_rcnn_r50_fpn_v2": detection.fasterrcnn_resnet50_fpn_v2,
    "mask_rcnn_r50_fpn_v2": detection.maskrcnn_resnet50_fpn_v2,
    "faster_rcnn_mobilenet_v3_large_fpn": detection.fasterrcnn_mobilenet_v3_large_fpn,
    "faster_rcnn_mobilenet_v3_large_320_fpn": detection.fasterrcnn_mobilenet_v3_large_320_fpn,
}
PROPOSALS, DETECTIONS = 150, 30  # per image in prediction; torchvision's defaults are up to 1,000 and 100
SMALL = (
    "input.min_size=160", "input.max_size=240", f"rpn.proposals.post_nms={PROPOSALS}",
    f"box.selection.max_detections={DETECTIONS}",
)  # fmt: skip


def peer(name: str) -> FasterRCNN:
    """torchvision's network on small images, its norms' statistics random, its classifiers without ties."""
    torch.manual_seed(0)
    model = PEERS[name](
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, min_size=160, max_size=240,
        rpn_post_nms_top_n_test=PROPOSALS, box_detections_per_img=DETECTIONS,
    )  # fmt: skip
    for key, buffer in model.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_(std=0.1)
        elif key.endswith("running_var"):
            buffer.uniform_(0.7, 1.4)
    for key, parameter in model.named_parameters():
        if "bn3.weight" in key:
            nn.init.constant_(parameter, 0.25)
        elif key.endswith(("rpn.head.cls_logits.weight", "cls_score.weight", "mask_fcn_logits.weight")):
            nn.init.normal_(parameter, std=0.3)
        elif key.endswith("bbox_pred.weight"):
            nn.init.normal_(parameter, std=0.02)
    return model.eval()


def ours(name: str, model: nn.Module, *overrides: str) -> Detector:
    source = "fasterrcnn_mobilenet_v3_large_320_fpn.pth" if "320" in name else ""
    converted = convert_state(torchvision_files.SYSTEM, model.state_dict(), source=source)
    assert converted.config.name == name
    config = override(converted.config, [*SMALL, "backbone.frozen_stages=0", *overrides])
    detector = empty_detector(config)
    detector.load_state_dict(converted.state)
    return detector.eval()


@pytest.mark.parametrize("name", PEERS)
def test_state_dicts_go_both_ways(name: str) -> None:
    model = peer(name)
    expected = model.state_dict()
    back = to_torchvision(ours(name, model).state_dict(), ours(name, model).config)
    assert set(back) == set(expected)
    for key, value in expected.items():
        idle = {"bbox_pred": 4, "mask_fcn_logits": 1}  # rows of background, which nothing uses
        rows = next((rows for part, rows in idle.items() if part in key and "roi_heads" in key), 0)
        assert torch.equal(back[key][rows:], value[rows:]) if rows else torch.equal(back[key], value), key
    PEERS[name](weights=None, weights_backbone=None, num_classes=CLASSES + 1).load_state_dict(back)


@pytest.mark.parametrize("name", PEERS)
@torch.no_grad()
def test_detections_equal_torchvisions(name: str) -> None:
    model = peer(name)
    detector = ours(name, model)
    pictures = [(image * 255).round().to(torch.uint8) for image in images()]
    in_boxes: list[dict[str, Tensor]] = []  # their detections before the masks are pasted into the image

    def keep(module: nn.Module, given: object, found: tuple[list[dict[str, Tensor]], object]) -> None:
        in_boxes.extend(dict(one) for one in found[0])

    model.roi_heads.register_forward_hook(keep)
    expected = [model([picture / 255])[0] for picture in pictures]  # the padding of a batch changes detections
    classes = tuple(f"class {i}" for i in range(CLASSES))
    predictor = Predictor(detector, classes=classes)
    found = predictor.predict(pictures)
    for ours_found, theirs, in_box in zip(found, expected, in_boxes, strict=True):
        boxes, labels = theirs["boxes"].numpy(), theirs["labels"].numpy() - 1
        assert len(ours_found) == len(boxes) > 3
        distance = np.abs(ours_found.boxes[None] - boxes[:, None]).max(-1)
        distance = np.where(ours_found.labels[None] == labels[:, None], distance, np.inf)
        order = distance.argmin(1)
        assert sorted(order) == list(range(len(boxes)))
        assert_within("detection boxes", ours_found.boxes[order], boxes, atol=0.05)
        assert_within("detection scores", ours_found.scores[order], theirs["scores"], atol=1e-3)
        if "masks" in theirs:
            assert ours_found.box_masks is not None
            assert_within("mask probabilities", ours_found.box_masks[order], in_box["masks"][:, 0], atol=5e-3)
            assert in_box["masks"].std() > 0.05


@pytest.mark.parametrize("name", ["mask_rcnn_r50_fpn_v2", "faster_rcnn_mobilenet_v3_large_fpn"])
def test_losses_equal_torchvisions(name: str) -> None:
    model = peer(name).train()
    for module in model.modules():  # running statistics would move, and differ with the order of the batch
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    detector = ours(name, model, *sample_everything(model))
    batch, resized = batch_of(model)
    targets = their_targets(sizes_of(resized), (4, 2))
    transformed, _ = model.transform(images())
    features = model.backbone(transformed.tensors)
    proposals, rpn_losses = model.rpn(transformed, features, targets)
    _, head_losses = model.roi_heads(features, proposals, transformed.image_sizes, targets)
    expected: dict[str, Tensor] = {**rpn_losses, **head_losses}
    found = detector.losses(batch, our_targets(targets, batch), torch.tensor(0))
    names = {"loss_objectness": "rpn_objectness", "loss_rpn_box_reg": "rpn_box", "loss_classifier": "box_class",
             "loss_box_reg": "box_delta", "loss_mask": "mask"}  # fmt: skip
    assert {names[key] for key in expected} == set(found)
    for key, value in expected.items():
        assert_within("losses", found[names[key]], value, rtol=2e-3, atol=1e-5)


def test_files_of_other_networks_are_refused_by_name(tmp_path: Path) -> None:
    model = detection.retinanet_resnet50_fpn(weights=None, weights_backbone=None, num_classes=3)
    with pytest.raises(ValueError, match="on a network that rcnn does not support"):
        convert_state(torchvision_files.SYSTEM, model.state_dict(), source="retina.pth")
