"""torchvision's Keypoint R-CNN, same weights, random images: detections, keypoints, losses and gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import KeypointRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.keypoint_rcnn import KeypointRCNNHeads, KeypointRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import FrozenBatchNorm2d

from rcnn.models.config import ResNetConfig
from rcnn.ops.keypoints import decode_keypoints
from rcnn.structures import Targets
from rcnn.weights.systems import torchvision as torchvision_files
from rcnn.weights.systems.torchvision import to_torchvision
from tests.deviations import assert_at_most, assert_within
from tests.known_features import known_features
from tests.narrow import instance, present, total
from tests.parity.test_torchvision_models import (
    assert_same_detections,
    assert_same_gradients,
    batch_of,
    images,
    our_targets,
    ours,
    sample_everything,
    sizes_of,
    their_targets,
)
from tests.unit.weights.state_dicts import convert_state

JOINTS = 17
DETECTIONS = 14  # per image; torchvision's default is 100
WIDTH = 64  # channels of the keypoint head; torchvision's default is 512, which takes 60 times as long


def peer(joints: int = JOINTS, width: int = WIDTH) -> KeypointRCNN:
    """torchvision's R50-FPN for persons, with random heads that give distinct scores."""
    torch.manual_seed(0)
    backbone = _resnet_fpn_extractor(resnet50(weights=None, norm_layer=FrozenBatchNorm2d), 5)
    head, predictor = KeypointRCNNHeads(256, (width,) * 8), KeypointRCNNPredictor(width, joints)
    model = KeypointRCNN(backbone, 2, keypoint_head=head, keypoint_predictor=predictor, min_size=160, max_size=240)
    for name, buffer in model.named_buffers():
        if name.endswith(("running_mean", "bias")):
            buffer.normal_(std=0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.7, 1.4)
        elif "bn3.weight" in name:
            buffer.fill_(0.25)  # the residual branch stays small, as in a trained network
    for name, parameter in model.named_parameters():
        if name.endswith("rpn.head.cls_logits.weight"):
            nn.init.normal_(parameter, std=0.05)
        elif name.endswith("cls_score.weight"):
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith("box_predictor.bbox_pred.weight"):
            nn.init.normal_(parameter, std=0.01)
    return model


def with_keypoints(theirs: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
    """All persons, with keypoints in and around their boxes; some are not given."""
    generator = torch.Generator().manual_seed(3)
    targets = []
    for target in theirs:
        boxes = target["boxes"]
        spread = torch.rand(len(boxes), JOINTS, 2, generator=generator) * 1.2 - 0.1
        points = boxes[:, None, :2] + spread * (boxes[:, 2:] - boxes[:, :2])[:, None]
        seen = torch.randint(0, 3, (len(boxes), JOINTS, 1), generator=generator)
        keypoints = torch.cat([points, seen], -1)
        targets.append({"boxes": boxes, "labels": torch.ones_like(target["labels"]), "keypoints": keypoints})
    return targets


def our_keypoints(theirs: list[dict[str, Tensor]], plain: Targets) -> Targets:
    keypoints = torch.zeros(*plain.valid.shape, JOINTS, 3)
    for image, target in enumerate(theirs):
        keypoints[image, : len(target["keypoints"])] = target["keypoints"]
    return replace(plain, labels=torch.zeros_like(plain.labels), bitmaps=None, keypoints=keypoints)


@pytest.mark.parametrize("joints", [17, 4])
def test_state_dicts_go_both_ways(joints: int) -> None:
    model = peer(joints, width=512)
    detector = ours(model)
    back = to_torchvision(detector.state_dict(), detector.config)
    expected = model.state_dict()
    assert set(back) == set(expected)
    for name, value in expected.items():
        if name.startswith("roi_heads.box_predictor.bbox_pred"):
            value = torch.cat([torch.zeros_like(value[:4]), value[4:]])  # of background: idle
        assert torch.equal(back[name], value), name
    model.load_state_dict(back)
    converted = convert_state(torchvision_files.SYSTEM, expected)
    assert converted.classes == ("person",)
    assert converted.config.keypoint is not None
    assert len(converted.config.keypoint.names) == joints
    assert (converted.config.keypoint.names[0] == "nose") == (joints == 17)


def test_the_published_file_has_norms_without_eps() -> None:
    state = peer().state_dict()
    published = convert_state(
        torchvision_files.SYSTEM, state, source="keypointrcnn_resnet50_fpn_coco-fc266e95.pth"
    ).config
    older = convert_state(torchvision_files.SYSTEM, state, source="keypointrcnn_resnet50_fpn_coco-9f466800.pth").config
    assert instance(published.backbone, ResNetConfig).norm_eps == 0.0
    assert instance(older.backbone, ResNetConfig).norm_eps == 1e-5


@torch.no_grad()
def test_detections_and_keypoints() -> None:
    model = peer().eval()
    instance(model.roi_heads, RoIHeads).detections_per_img = DETECTIONS
    detector = ours(model, f"box.selection.max_detections={DETECTIONS}").eval()
    batch, _ = batch_of(model)
    transformed, _ = model.transform(images())
    features = model.backbone(transformed.tensors)
    proposals, _ = model.rpn(transformed, features)
    results, _ = model.roi_heads(features, proposals, transformed.image_sizes)
    maps = detector.features(batch)
    with known_features(detector, maps):
        detections = detector.predict(batch)
    heatmaps = present(detector.keypoint_head).heatmaps(maps, detections.boxes, detections.valid)
    logits = decode_keypoints(heatmaps, detections.boxes)[..., 2]
    close, count = 0, 0
    for i, result in enumerate(results):
        assert_same_detections(detections, i, result)
        real = detections.valid[i]
        order = (detections.boxes[i][real][None] - result["boxes"][:, None]).abs().amax(-1).argmin(1)
        points = present(detections.keypoints)[i][real][order]
        near = (points[..., :2] - result["keypoints"][..., :2]).abs().amax(-1) < 0.05
        close, count = close + int(near.sum()), count + near.numel()
        assert_within("keypoint logits", logits[i][real][order], result["keypoints_scores"], atol=1e-3, rtol=1e-3)
    assert count > 10 * JOINTS
    # between two peaks of equal height rounding decides
    assert_at_most("share of keypoints off by over 0.05 px", 1 - close / count, 0.01)


@pytest.mark.parametrize(
    ("counts", "dtype"), [((3, 5), torch.float64), ((0, 4), torch.float32)], ids=["both", "one-empty"]
)
def test_losses_and_gradients_with_exhaustive_sampling(counts: tuple[int, int], dtype: torch.dtype) -> None:
    """With many keypoints in float64: in float32, rounding decides about ReLUs with inputs close to 0."""
    model = peer().train()
    detector = ours(model, *sample_everything(model)).train()
    detector, model = detector.to(dtype), model.to(dtype)
    batch, resized = batch_of(model)
    plain = their_targets(sizes_of(resized), counts)
    targets = with_keypoints(plain)

    transformed, _ = model.transform(images())
    transformed.tensors = transformed.tensors.to(dtype)
    features = model.backbone(transformed.tensors)
    given = [target | {"boxes": target["boxes"].to(dtype)} for target in targets]
    proposals, rpn_losses = model.rpn(transformed, features, given)
    _, head_losses = model.roi_heads(features, proposals, transformed.image_sizes, given)
    theirs = {**rpn_losses, **head_losses}
    expected = our_keypoints(targets, our_targets(plain, batch))
    losses = detector.losses(batch, expected, torch.tensor(0))
    assert set(losses) == {"rpn_objectness", "rpn_box", "box_class", "box_delta", "keypoint"}
    assert_within("keypoint loss", losses["keypoint"], theirs["loss_keypoint"], rtol=1e-4, atol=1e-6)
    assert_within("sum of losses", total(losses), total(theirs), rtol=1e-4, atol=1e-6)

    total(losses).backward()
    total(theirs).backward()
    assert_same_gradients(detector, model)
