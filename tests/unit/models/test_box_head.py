"""The box head's variants, each against something independent: torchvision's layers, slow formulas, NumPy loops."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead

from rcnn.models.box_rules import HALF_OPEN
from rcnn.models.build import FeatureMaps, build_box_head, build_mask_head
from rcnn.models.config import BOX_SAMPLING, BoxHeadConfig, CompactConfig, DetectorConfig, MaskHeadConfig, PoolerConfig
from rcnn.models.heads.box import BoxHead, BoxOutputs
from rcnn.models.heads.mask import MaskHead
from rcnn.models.heads.regions import Regions, sample_regions
from rcnn.models.heads.trunks import ConvsAndFullyConnected
from rcnn.models.layers import Conv2d
from rcnn.models.overrides import override
from rcnn.ops.boxes import box_iou
from rcnn.structures import Detections, Proposals, Targets
from tests.narrow import instance, present
from tests.unit.random_batches import images_of
from tests.unit.random_boxes import random_boxes


def maps_of(channels: int) -> FeatureMaps:
    return FeatureMaps(rpn_strides={"c4": 16}, pooled_strides={"c4": 16}, channels=channels)


def head_of(config: BoxHeadConfig, classes: int = 3, channels: int = 8) -> BoxHead:
    torch.manual_seed(0)
    detector = DetectorConfig(name="tiny", num_classes=classes, backbone=CompactConfig(), box=config)
    head = build_box_head(detector, maps_of(channels), HALF_OPEN)
    assert isinstance(head, BoxHead)
    for layer in (head.logits, head.deltas):
        nn.init.normal_(layer.weight, std=0.2)
    return head


def proposals_of(boxes: Tensor) -> Proposals:
    valid = torch.ones(boxes.shape[:2], dtype=torch.bool)
    return Proposals(boxes=boxes, objectness=torch.zeros(boxes.shape[:2]), valid=valid)


def targets_of(boxes: Tensor, labels: Tensor, counts: list[int]) -> Targets:
    return Targets(boxes=boxes, labels=labels, valid=torch.arange(boxes.shape[1]) < torch.tensor(counts)[:, None])


def test_4conv1fc_with_batch_norm_equals_torchvisions() -> None:
    config = BoxHeadConfig(convs=4, conv_width=16, norm="bn", fcs=1, fc_width=24)
    ours = ConvsAndFullyConnected(in_channels=8, config=config).eval()
    theirs = FastRCNNConvFCHead((8, 7, 7), [16] * 4, [24], norm_layer=nn.BatchNorm2d).eval()
    with torch.no_grad():
        for number in range(4):
            norm = instance(theirs.get_submodule(f"{number}.1"), nn.BatchNorm2d)
            nn.init.uniform_(present(norm.running_var), 0.5, 2)
            nn.init.normal_(present(norm.running_mean))
            mine = instance(ours.get_submodule(f"conv{number + 1}"), Conv2d)
            mine.weight.copy_(theirs.get_parameter(f"{number}.0.weight"))
            present(mine.norm).load_state_dict(norm.state_dict())
        ours.get_submodule("fc1").load_state_dict(theirs[5].state_dict())
        x = torch.randn(5, 8, 7, 7)
        torch.testing.assert_close(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("after", [False, True])
def test_both_orders_of_group_norm_and_relu(after: bool) -> None:
    config = BoxHeadConfig(convs=2, conv_width=32, norm="gn", norm_after_relu=after, fcs=0)
    features = ConvsAndFullyConnected(in_channels=8, config=config)
    state = features.state_dict()
    biases = {f"conv{i}.bias" for i in (1, 2)} if after else set()
    assert set(state) == {f"conv{i}.{n}" for i in (1, 2) for n in ("weight", "norm.weight", "norm.bias")} | biases
    x = expected = torch.randn(3, 8, 7, 7)
    for i in (1, 2):
        nn.init.normal_(state[f"conv{i}.norm.weight"])
        expected = F.conv2d(expected, state[f"conv{i}.weight"], state.get(f"conv{i}.bias"), padding=1)
        expected = F.relu(expected) if after else expected
        expected = F.group_norm(expected, 32, state[f"conv{i}.norm.weight"], state[f"conv{i}.norm.bias"])
        expected = expected if after else F.relu(expected)
    assert features.channels == 32 * 49
    torch.testing.assert_close(features(x), expected.flatten(1))


def slow_losses(outputs: BoxOutputs, regions: Regions, targets: Targets, config: BoxHeadConfig) -> tuple[float, float]:
    """Class and box loss of region after region, in plain arithmetic."""
    class_loss = box_loss = count = 0.0
    for image, place in regions.valid.nonzero().tolist():
        count += 1
        label = int(regions.labels[image, place])
        logits = outputs.logits[image, place].double().tolist()
        total = sum(math.exp(value) for value in logits)
        p = math.exp(logits[label]) / total
        weight = config.class_weights[label] if config.class_weights else 1.0
        class_loss += -weight * math.log(p) * ((1 - p) ** config.focal_gamma if config.loss == "focal" else 1)
        if not regions.positive[image, place]:
            continue
        x1, y1, x2, y2 = regions.boxes[image, place].tolist()
        a1, b1, a2, b2 = targets.boxes[image, regions.matched[image, place]].tolist()
        expected = [
            ((a1 + a2) - (x1 + x2)) / 2 / (x2 - x1), ((b1 + b2) - (y1 + y2)) / 2 / (y2 - y1),
            math.log((a2 - a1) / (x2 - x1)), math.log((b2 - b1) / (y2 - y1)),
        ]  # fmt: skip
        found = outputs.deltas[image, place, 0 if config.class_agnostic else label].tolist()
        pairs = zip(expected, config.delta_weights, found, strict=True)
        box_loss += sum(abs(value * weight - delta) for value, weight, delta in pairs)
    return class_loss / count, box_loss / count


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["class_agnostic=true"],
        ["loss=focal", "focal_gamma=2"],
        ["loss=focal", "focal_gamma=0.5", "class_weights=[0.5,2,1,0.1]"],
        ["class_weights=[0.5,2,1,0.1]", "sampling.min_negative_iou=0.1"],
        ["append_ground_truth=false", "sampling.positive_iou=0.3"],
    ],
)
def test_losses_equal_slow_formulas(changes: list[str]) -> None:
    config = override(BoxHeadConfig(fc_width=16, sampling=replace(BOX_SAMPLING, batch_size=24)), changes)
    head = head_of(config)
    targets = targets_of(random_boxes(2, 4, seed=1, smallest=20), torch.randint(0, 3, (2, 4)), [4, 1])
    features = {"c4": torch.randn(2, 8, 10, 10)}
    proposals = proposals_of(random_boxes(2, 40, seed=2, smallest=20))
    sizes = torch.tensor([[160, 160]] * 2)
    regions, losses = head.losses(features, proposals, images_of(sizes), targets, torch.tensor(3))
    outputs = head.predict_regions(features, regions.boxes, regions.valid)
    expected = slow_losses(outputs, regions, targets, config)
    assert regions.positive.any(1).all()
    assert losses["box_class"].item() == pytest.approx(expected[0], rel=1e-4)
    assert losses["box_delta"].item() == pytest.approx(expected[1], rel=1e-4)


def test_regions_below_the_lower_iou_are_ignored() -> None:
    boxes = random_boxes(2, 60, seed=3, smallest=10)
    targets = targets_of(random_boxes(2, 3, seed=4, smallest=30), torch.randint(0, 3, (2, 3)), [3, 2])
    config = BoxHeadConfig(
        append_ground_truth=False,
        sampling=replace(BOX_SAMPLING, batch_size=200, min_negative_iou=0.1, positive_iou=0.4),
    )
    regions = sample_regions(
        proposals_of(boxes),
        targets,
        num_classes=3,
        sampling=config.sampling,
        append=config.append_ground_truth,
        seed=torch.tensor(0),
    )
    for image, count in enumerate((3, 2)):
        best = box_iou(boxes[image], targets.boxes[image, :count]).amax(1)
        positive = boxes[image][best >= 0.4]
        background = boxes[image][(best >= 0.1) & (best < 0.4)]
        real, is_object = regions.valid[image], regions.positive[image]
        found = regions.boxes[image]
        assert sorted(found[is_object].tolist()) == sorted(positive.tolist())
        assert sorted(found[real & ~is_object].tolist()) == sorted(background.tolist())
        assert 0 < len(background) < len(boxes[image]) - len(positive)
        assert (regions.labels[image][real & ~is_object] == 3).all()
    assert regions.appended is not None
    assert not regions.appended.any()


def test_ground_truth_boxes_are_added_to_the_regions_and_marked() -> None:
    targets = targets_of(random_boxes(1, 3, seed=5), torch.randint(0, 3, (1, 3)), [2])
    config = BoxHeadConfig(sampling=replace(BOX_SAMPLING, batch_size=64))
    regions = sample_regions(
        proposals_of(random_boxes(1, 20, seed=6)),
        targets,
        num_classes=3,
        sampling=config.sampling,
        seed=torch.tensor(0),
    )
    assert regions.appended is not None
    assert sorted(regions.boxes[regions.appended].tolist()) == sorted(targets.boxes[0, :2].tolist())
    assert regions.positive[regions.appended].all()


def test_without_a_positive_one_row_remains_for_the_layers_of_positives() -> None:
    targets = targets_of(random_boxes(1, 3, seed=5), torch.randint(0, 3, (1, 3)), [2])
    sampling = replace(BOX_SAMPLING, batch_size=64, positive_fraction=0.0)
    regions = sample_regions(
        proposals_of(random_boxes(1, 20, seed=6)), targets, num_classes=3, sampling=sampling, seed=torch.tensor(0)
    )
    assert regions.valid.any()
    assert not regions.positive.any()
    assert regions.positives().boxes.shape == (1, 1, 4)


def test_classes_that_share_a_box_are_found_as_if_each_had_it() -> None:
    shared = head_of(BoxHeadConfig(fc_width=16, class_agnostic=True, score_threshold=0.1))
    own = head_of(BoxHeadConfig(fc_width=16, score_threshold=0.1))
    state = shared.state_dict()
    state["deltas.weight"], state["deltas.bias"] = state["deltas.weight"].repeat(3, 1), state["deltas.bias"].repeat(3)
    own.load_state_dict(state)
    features, sizes = {"c4": torch.randn(2, 8, 10, 10)}, torch.tensor([[160, 150], [130, 160]])
    proposals = proposals_of(random_boxes(2, 30, seed=7, smallest=20))
    found, expected = (head.eval().predict(features, proposals, images_of(sizes)) for head in (shared, own))
    assert found.valid.sum() > 10
    for field in ("boxes", "scores", "labels", "valid"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field))


def test_scales_are_clipped_at_the_configured_limit() -> None:
    head = head_of(BoxHeadConfig(fc_width=16, max_log_scale=math.log(2), delta_weights=(1, 1, 1, 1)))
    region = torch.tensor([[[10.0, 10.0, 20.0, 30.0]]])
    boxes = head.decode(torch.tensor([0.0, 0.0, 5.0, 5.0]).expand(1, 1, 3, 4), region)
    torch.testing.assert_close(boxes[0, 0, 0], torch.tensor([5.0, 0.0, 25.0, 40.0]))


def test_a_mask_for_all_classes_is_the_mask_of_each() -> None:
    def build(agnostic: bool) -> MaskHead:
        config = MaskHeadConfig(convs=1, width=32, class_agnostic=agnostic, norm="gn", pooler=PoolerConfig(size=4))
        detector = DetectorConfig(name="tiny", num_classes=3, backbone=CompactConfig(), mask=config)
        head = build_mask_head(detector, config, maps_of(8), HALF_OPEN, None)
        assert isinstance(head, MaskHead)
        return head.eval()

    one, each = build(True), build(False)
    state = one.state_dict()
    assert state["logits.weight"].shape[0] == 1
    state["logits.weight"] = torch.cat([torch.randn(1, 32, 1, 1) * 0.1] * 3)
    each.load_state_dict(state | {"logits.bias": state["logits.bias"].repeat(3)})
    one.logits.weight.data.copy_(state["logits.weight"][:1])
    valid = torch.arange(6)[None] < 4
    detections = Detections(
        boxes=random_boxes(1, 6, seed=8), scores=torch.rand(1, 6), labels=torch.randint(0, 3, (1, 6)), valid=valid
    )
    features = {"c4": torch.randn(1, 8, 10, 10)}
    with torch.no_grad():
        found, expected = (
            head.predict(features, detections, images_of(torch.tensor([[160, 160]]))).masks for head in (one, each)
        )
    assert found is not None
    assert found[valid].std() > 0
    torch.testing.assert_close(found, expected)


def test_the_most_objects_of_a_sample() -> None:
    assert BOX_SAMPLING.max_positives == 128
    assert replace(BOX_SAMPLING, batch_size=7).max_positives == 1
