"""torchvision's detectors, same weights, random images: every stage, loss and gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import FrozenBatchNorm2d

from rcnn.models import Detector
from rcnn.models.overrides import override
from rcnn.structures import Detections, ImageBatch, Targets
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems import torchvision as torchvision_files
from rcnn.weights.systems.torchvision import to_torchvision
from tests.deviations import assert_at_most, assert_within
from tests.known_features import known_features
from tests.narrow import instance, total
from tests.unit.weights.state_dicts import convert_state

CLASSES = 5
SIZES = [(150, 210), (180, 130)]
EXHAUSTIVE = 10**6
PROPOSALS = 100  # in training; by default 2,000
# Adds the same number to a whole heatmap, which the softmax over the map ignores. Its exact gradient is 0, and the
# computed one is rounding, so it is compared in units of the gradient of the layer's weight.
SHIFT = "roi_heads.keypoint_predictor.kps_score_lowres.bias"


def peer(masks: bool) -> FasterRCNN:
    """torchvision's R50-FPN with frozen norms of random statistics, and classifiers that do not tie."""
    torch.manual_seed(0)
    backbone = _resnet_fpn_extractor(resnet50(weights=None, norm_layer=FrozenBatchNorm2d), 5)
    model = (MaskRCNN if masks else FasterRCNN)(backbone, CLASSES + 1, min_size=160, max_size=240)
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
        elif name.endswith(("cls_score.weight", "mask_fcn_logits.weight")):
            nn.init.normal_(parameter, std=0.1)
        elif name.endswith("bbox_pred.weight"):
            nn.init.normal_(parameter, std=0.01)
    return model


def ours(model: nn.Module, *overrides: str) -> Detector:
    converted = convert_state(torchvision_files.SYSTEM, model.state_dict())
    config = override(converted.config, ["backbone.frozen_stages=0", *overrides])
    detector = empty_detector(config)
    detector.load_state_dict(converted.state)
    return detector


def images() -> list[Tensor]:
    """Random pictures, smooth enough to have features; float RGB in 0..1."""
    torch.manual_seed(1)
    noise = [torch.rand(1, 3, h // 8, w // 8) for h, w in SIZES]
    return [F.interpolate(n, size=s, mode="bicubic").clamp(0, 1)[0] for n, s in zip(noise, SIZES, strict=True)]


def batch_of(model: nn.Module) -> tuple[ImageBatch, list[Tensor]]:
    """What torchvision's transform makes of the images, before normalisation: as a batch, and one by one."""
    resized = []
    for image in images():
        height, width = image.shape[1:]
        scale = min(160 / min(height, width), 240 / max(height, width))
        resized.append(
            F.interpolate(image[None], scale_factor=scale, mode="bilinear", recompute_scale_factor=True)[0] * 255
        )
    sizes = sizes_of(resized)
    height, width = (-(-max(size[i] for size in sizes) // 32) * 32 for i in range(2))
    pixels = torch.zeros(2, 3, height, width)
    for slot, image in zip(pixels, resized, strict=True):
        slot[:, : image.shape[1], : image.shape[2]] = image
    return ImageBatch(pixels=pixels, sizes=torch.tensor(sizes)), resized


def sizes_of(images: list[Tensor]) -> list[tuple[int, int]]:
    return [(image.shape[1], image.shape[2]) for image in images]


def sample_everything(model: FasterRCNN) -> tuple[str, ...]:
    """Make torchvision's losses count every anchor and proposal, so that no random number matters; 100 per image.

    Returns the overrides that make ours do the same.
    """
    instance(model.rpn, RegionProposalNetwork)._post_nms_top_n["training"] = PROPOSALS
    for stage in (instance(model.rpn, RegionProposalNetwork), instance(model.roi_heads, RoIHeads)):
        stage.fg_bg_sampler.batch_size_per_image = EXHAUSTIVE
    sampling = (f"rpn.sampling.batch_size={EXHAUSTIVE}", f"box.sampling.batch_size={EXHAUSTIVE}")
    return (*sampling, f"rpn.proposals.post_nms_train={PROPOSALS}")


def masks_of(objects: Tensor, size: tuple[int, int]) -> Tensor:
    """An ellipse in each box (N, 4), as bitmaps (N, H, W) uint8."""
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    x1, y1, x2, y2 = objects[:, :, None, None].unbind(1)
    radius = ((x - (x1 + x2) / 2) / ((x2 - x1) / 2)) ** 2 + ((y - (y1 + y2) / 2) / ((y2 - y1) / 2)) ** 2
    return (radius <= 1).to(torch.uint8)


def their_targets(sizes: list[tuple[int, int]], counts: tuple[int, int]) -> list[dict[str, Tensor]]:
    torch.manual_seed(2)
    targets = []
    for (height, width), count in zip(sizes, counts, strict=True):
        corner = torch.rand(count, 2) * torch.tensor([width * 0.6, height * 0.6])
        boxes = torch.cat([corner, corner + 12 + torch.rand(count, 2) * 40], 1)
        boxes[:, 2::2].clamp_(max=width)
        boxes[:, 3::2].clamp_(max=height)
        labels = torch.randint(1, CLASSES + 1, (count,))
        targets.append({"boxes": boxes, "labels": labels, "masks": masks_of(boxes, (height, width))})
    return targets


def our_targets(theirs: list[dict[str, Tensor]], images: ImageBatch) -> Targets:
    places = 8
    boxes, labels = torch.zeros(2, places, 4), torch.zeros(2, places, dtype=torch.int64)
    valid = torch.zeros(2, places, dtype=torch.bool)
    bitmaps = torch.zeros(2, places, *images.pixels.shape[-2:], dtype=torch.bool)
    for i, target in enumerate(theirs):
        count = len(target["boxes"])
        boxes[i, :count], labels[i, :count], valid[i, :count] = target["boxes"], target["labels"] - 1, True
        height, width = target["masks"].shape[1:]
        bitmaps[i, :count, :height, :width] = target["masks"].bool()
    return Targets(boxes=boxes, labels=labels, valid=valid, bitmaps=bitmaps)


@pytest.mark.parametrize("masks", [False, True], ids=["faster", "mask"])
def test_state_dicts_go_both_ways(masks: bool) -> None:
    model = peer(masks)
    detector = ours(model)
    back = to_torchvision(detector.state_dict(), detector.config)
    expected = model.state_dict()
    assert set(back) == set(expected)
    for name, value in expected.items():
        if name.endswith(("bbox_pred.weight", "bbox_pred.bias")):
            value = torch.cat([torch.zeros_like(value[:4]), value[4:]]) if "roi_heads" in name else value
        if "mask_fcn_logits" in name:
            value = torch.cat([torch.zeros_like(value[:1]), value[1:]])  # of background: idle
        assert torch.equal(back[name], value), name
    model.load_state_dict(back)


@pytest.mark.parametrize("masks", [False, True], ids=["faster", "mask"])
@torch.no_grad()
def test_features_proposals_detections_and_masks(masks: bool) -> None:
    model = peer(masks).eval()
    detector = ours(model).eval()
    batch, _ = batch_of(model)
    transformed, _ = model.transform(images())
    assert_within("input batch", detector.normalize(batch), transformed.tensors, atol=1e-4, rtol=1e-4)

    theirs = model.backbone(transformed.tensors)
    features = detector.features(batch)
    for value, their in zip(features.values(), theirs.values(), strict=True):
        assert_within("features", value, their, atol=1e-4, rtol=1e-4)

    # 160 rows are 3 steps of the coarsest map, 53 pixels each to torchvision, whose stride is 64
    assert batch.pixels.shape[2] % 64
    anchors = torch.cat([level.anchors for level in detector.rpn.head(features)])
    generator = instance(model.rpn, RegionProposalNetwork).anchor_generator
    for their in generator(transformed, list(theirs.values())):
        torch.testing.assert_close(anchors, their, atol=0, rtol=0)
    proposals, _ = model.rpn(transformed, theirs)
    ours_proposals = detector.rpn.predict(features, batch)
    for i, their in enumerate(proposals):
        mine = ours_proposals.boxes[i][ours_proposals.valid[i]]
        assert_same_boxes(mine, their, atol=0.01)

    with known_features(detector, features):
        detections = detector.predict(batch)
    results, _ = model.roi_heads(theirs, proposals, transformed.image_sizes)
    for i, result in enumerate(results):
        assert_same_detections(detections, i, result)


def assert_same_boxes(mine: Tensor, their: Tensor, atol: float) -> None:
    assert mine.shape == their.shape
    close = (mine[None] - their[:, None]).abs().amax(-1) < atol  # (theirs, ours)
    twins = (their[None] - their[:, None]).abs().amax(-1) < atol  # large boxes of two levels, clipped to the image
    assert close.any(0).all()
    assert torch.equal(close.sum(1), twins.sum(1))


def assert_same_detections(detections: Detections, i: int, result: dict[str, Tensor]) -> None:
    real = detections.valid[i]
    assert int(real.sum()) == len(result["boxes"]) > 5
    distance = (detections.boxes[i][real][None] - result["boxes"][:, None]).abs().amax(-1)
    distance = distance + 1e6 * (detections.labels[i][real][None] != result["labels"][:, None] - 1)
    order = distance.argmin(1)
    assert sorted(order.tolist()) == list(range(len(order)))
    assert_at_most("detection boxes", distance.min(1).values.max().item(), 0.01)
    assert_within("detection scores", detections.scores[i][real][order], result["scores"], atol=1e-4, rtol=1e-3)
    if detections.masks is not None:
        assert_within(
            "mask probabilities", detections.masks[i][real][order], result["masks"][:, 0], atol=1e-3, rtol=1e-3
        )


@pytest.mark.parametrize("counts", [(3, 5), (0, 4)], ids=["both", "one-empty"])
@pytest.mark.parametrize("masks", [False, True], ids=["faster", "mask"])
def test_losses_and_gradients_with_exhaustive_sampling(masks: bool, counts: tuple[int, int]) -> None:
    model = peer(masks).train()
    detector = ours(model, *sample_everything(model)).train()
    batch, resized = batch_of(model)
    targets = their_targets(sizes_of(resized), counts)

    transformed, _ = model.transform(images())
    features = model.backbone(transformed.tensors)
    proposals, rpn_losses = model.rpn(transformed, features, targets)
    _, head_losses = model.roi_heads(features, proposals, transformed.image_sizes, targets)
    theirs = {**rpn_losses, **head_losses}
    losses = detector.losses(batch, our_targets(targets, batch), torch.tensor(0))
    names = {
        "rpn_objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "box_class": "loss_classifier",
        "box_delta": "loss_box_reg",
        "mask": "loss_mask",
    }
    assert len(losses) == len(theirs)
    for name, value in losses.items():
        assert_within("losses", value, theirs[names[name]], rtol=1e-4, atol=1e-6)

    total(losses).backward()
    total(theirs).backward()
    assert_same_gradients(detector, model)


def assert_same_gradients(detector: Detector, model: nn.Module) -> None:
    """The difference of each gradient over the gradient's norm.

    Single elements are not compared: a ReLU whose input is nearly 0 may be on in one of the two and off in the other.
    """
    gradients = {name: p.grad for name, p in detector.named_parameters()}
    theirs = {name: parameter.grad for name, parameter in model.named_parameters()}
    back = to_torchvision({name: torch.zeros(()) if g is None else g for name, g in gradients.items()}, detector.config)
    for name, expected in theirs.items():
        assert expected is not None, name
        size = expected
        if name == SHIFT:
            size = theirs[name.replace("bias", "weight")]
            assert size is not None
        difference = (back[name] - expected).norm() / size.norm()
        assert_at_most("difference of a gradient / norm", difference.item(), 5e-3)
