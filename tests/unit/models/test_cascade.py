"""Cascade R-CNN: every stage against a slow loop, both ways of making regions, and invalid settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch
import torchvision
from torch import Tensor, nn

from rcnn.models import Detector, build_detector, model_config
from rcnn.models.config import CascadeConfig, DetectorConfig, KeypointHeadConfig
from rcnn.models.heads.cascade import CascadeHead, CascadeMaskHead
from rcnn.models.heads.regions import Regions
from rcnn.models.overrides import override
from rcnn.structures import ImageBatch, Proposals
from tests.narrow import instance, present, total
from tests.unit.random_batches import images_of, random_images, random_targets
from tests.unit.random_boxes import random_boxes

SIZES = [(96, 128), (128, 80)]
MMDETECTION = CascadeConfig(
    resample=True, loss_weights=(1.0, 0.5, 0.25), mask_heads="each", average="logits", feature_gradient=1.0
)


def tiny(cascade: CascadeConfig | None = None, *box: str) -> DetectorConfig:
    config = model_config("cascade_mask_rcnn_compact")
    config = replace(config, num_classes=3, box=override(config.box, box))
    return config if cascade is None else replace(config, cascade=cascade)


def lively(config: DetectorConfig) -> Detector:
    """A detector with large deltas, so that the stages' boxes differ."""
    torch.manual_seed(0)
    detector = build_detector(config)
    assert isinstance(detector.box_head, CascadeHead)
    for stage in detector.box_head.heads():
        nn.init.normal_(stage.logits.weight, std=0.3)
        nn.init.normal_(stage.deltas.weight, std=0.5)
    return detector


def inputs(seed: int = 1) -> tuple[dict[str, Tensor], Proposals, ImageBatch]:
    """Random maps and proposals of two images."""
    generator = torch.Generator().manual_seed(seed)
    features = {f"p{n}": torch.randn(2, 48, 128 // 2**n, 128 // 2**n, generator=generator) for n in (2, 3, 4, 5)}
    boxes = random_boxes(2, 25, seed=seed, extent=80, smallest=8)
    valid = torch.arange(25) < torch.tensor([[25], [18]])
    proposals = Proposals(boxes=boxes * valid[..., None], objectness=torch.zeros(2, 25), valid=valid)
    return features, proposals, images_of(torch.tensor(SIZES))


def slow_decode(box: Tensor, delta: Tensor, weights: tuple[float, ...]) -> Tensor:
    """One box moved by one set of deltas."""
    dx, dy, dw, dh = (delta / torch.tensor(weights)).tolist()
    x1, y1, x2, y2 = box.tolist()
    width, height = x2 - x1, y2 - y1
    x, y = (x1 + x2) / 2 + dx * width, (y1 + y2) / 2 + dy * height
    width, height = width * torch.tensor(dw).exp().item(), height * torch.tensor(dh).exp().item()
    return torch.tensor([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("agnostic", [True, False])
@torch.no_grad()
def test_prediction_equals_a_loop_over_stages_and_regions(
    average: Literal["probabilities", "logits"], agnostic: bool
) -> None:
    cascade = CascadeConfig(average=average)
    detector = lively(
        tiny(cascade, f"class_agnostic={agnostic}", "score_threshold=0.2", "selection.max_detections=50")
    ).eval()
    head = detector.box_head
    assert isinstance(head, CascadeHead)
    features, proposals, images = inputs()
    found = head.predict(features, proposals, images)
    assert found.valid.sum() > 20
    for image in range(2):
        maps = {name: value[image : image + 1] for name, value in features.items()}
        rows: list[tuple[Tensor, Tensor, int]] = []
        for region in proposals.boxes[image][proposals.valid[image]]:
            box, boxes, said = region, region[None], list[Tensor]()
            for number, stage in enumerate(head.heads()):
                logits, deltas, _ = stage.predict_regions(maps, box[None, None], torch.ones(1, 1, dtype=torch.bool))
                logits, deltas = logits[0, 0], deltas[0, 0]
                said.append(logits if average == "logits" else logits.softmax(0))
                weights = cascade.delta_weights[number]
                assert weights == stage.config.delta_weights
                boxes = torch.stack([slow_decode(box, delta, weights) for delta in deltas])
                boxes = torchvision.ops.clip_boxes_to_image(boxes, SIZES[image])
                box = boxes[0 if agnostic else logits[:-1].argmax()]
            mean = sum(said, torch.zeros(4)) / 3
            scores = (mean.softmax(0) if average == "logits" else mean)[:-1]
            rows += [(boxes[0 if agnostic else k], scores[k], k) for k in range(3) if scores[k] > 0.2]
        box, score = torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows])
        label = torch.tensor([row[2] for row in rows])
        kept = torchvision.ops.batched_nms(box, score, label, 0.5)
        real = found.valid[image]
        assert found.labels[image][real].tolist() == label[kept].tolist()
        torch.testing.assert_close(found.scores[image][real], score[kept], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.boxes[image][real], box[kept], atol=1e-2, rtol=1e-4)


def test_later_stages_take_all_boxes_of_the_one_before_and_label_them_more_strictly() -> None:
    detector = lively(tiny(None, "sampling.batch_size=40", "sampling.positive_fraction=0.5"))
    features, proposals, images = inputs(seed=2)
    targets = random_targets(SIZES, [4, 2], num_classes=3, seed=3)
    near = targets.boxes[:, :4].repeat(1, 4, 1) + torch.randn(2, 16, 4, generator=torch.Generator().manual_seed(0)) * 3
    boxes = torch.cat([near * targets.valid[:, :4].repeat(1, 4)[..., None], proposals.boxes[:, :9]], 1)
    proposals = Proposals(boxes=boxes, objectness=torch.zeros(2, 25), valid=(boxes[..., 2:] > boxes[..., :2]).all(-1))
    head = detector.box_head
    assert isinstance(head, CascadeHead)
    for stage in head.heads():
        nn.init.normal_(stage.deltas.weight, std=0.05)  # near enough to remain objects
    first, losses = head.losses(features, proposals, images, targets, torch.tensor(0))
    assert list(losses) == [f"box_{part}_{number}" for number in range(3) for part in ("class", "delta")]
    before, counts = first, [int(first.positive.sum())]
    for number, regions in enumerate(first.later, start=1):
        stage = head.heads()[number - 1]
        outputs = stage.predict_regions(features, before.boxes, before.valid)
        for image in range(2):
            moved = []
            for place in before.valid[image].nonzero()[:, 0].tolist():
                box = slow_decode(
                    before.boxes[image, place], outputs.deltas[image, place, 0], stage.config.delta_weights
                )
                box = torchvision.ops.clip_boxes_to_image(box[None].detach(), SIZES[image])[0]
                if box[2] > box[0] and box[3] > box[1]:
                    moved.append(box)
            true = targets.boxes[image][targets.valid[image]]
            iou, best = torchvision.ops.box_iou(torch.stack(moved), true).max(1)
            is_object = iou >= (0.5, 0.6, 0.7)[number]
            expected = torch.where(is_object, targets.labels[image][best], 3)
            real = regions.valid[image]
            assert int(real.sum()) == len(moved)
            order = (regions.boxes[image][real][:, None] - torch.stack(moved)).abs().amax(-1).argmin(1)
            assert sorted(order.tolist()) == list(range(len(moved)))
            torch.testing.assert_close(regions.boxes[image][real], torch.stack(moved)[order], atol=1e-3, rtol=1e-4)
            assert regions.labels[image][real].tolist() == expected[order].tolist()
            assert not regions.positive[image].int().diff().gt(0).any()  # objects come first
        counts.append(int(regions.positive.sum()))
        before = regions
    assert not first.boxes.requires_grad
    assert not any(regions.boxes.requires_grad for regions in first.later)
    assert min(counts) > 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@torch.no_grad()
def test_boxes_that_are_not_finite_are_zeros_in_the_next_stage(value: float) -> None:
    detector = lively(tiny())
    head = instance(detector.box_head, CascadeHead)
    features, proposals, images = inputs()
    stage, number = head.heads()[0], torch.zeros_like(proposals.valid, dtype=torch.int64)
    regions = Regions(
        boxes=proposals.boxes,
        matched=number,
        labels=number,
        positive=torch.zeros_like(proposals.valid),
        valid=proposals.valid,
        max_positives=1,
    )
    outputs = stage.predict_regions(features, regions.boxes, regions.valid)
    expected = head.next_proposals(stage, outputs, regions, images)
    deltas = outputs.deltas.clone()
    deltas[:, 3] = value
    found = head.next_proposals(stage, outputs._replace(deltas=deltas), regions, images)
    others = torch.arange(25) != 3
    assert not found.valid[:, 3].any()
    assert not found.boxes[~found.valid].any()
    assert torch.equal(found.boxes[:, others], expected.boxes[:, others])


def test_resampling_adds_the_ground_truth_boxes_to_each_stage() -> None:
    detector = lively(tiny(MMDETECTION, "sampling.batch_size=16", "sampling.positive_fraction=0.25"))
    features, proposals, images = inputs(seed=4)
    targets = random_targets(SIZES, [3, 0], num_classes=3, seed=5)
    head = detector.box_head
    assert isinstance(head, CascadeHead)
    first, losses = head.losses(features, proposals, images, targets, torch.tensor(0))
    for regions in (first, *first.later):
        assert regions.valid.shape == (2, 16)
        assert regions.appended is not None
        assert 0 < regions.positive[0].sum() <= 4
        true = {tuple(box) for box in targets.boxes[0, :3].tolist()}
        assert {tuple(box) for box in regions.boxes[regions.appended].tolist()} <= true
        others = {tuple(box) for box in regions.boxes[regions.valid & ~regions.appended].tolist()}
        assert not others & true  # the stage before had them, and they are not moved on
    assert first.later[0].appended is not None
    assert first.later[0].appended.any()
    assert all(loss.isfinite() for loss in losses.values())


def test_loss_weights_and_the_features_gradient() -> None:
    features, proposals, images = inputs(seed=6)
    targets = random_targets(SIZES, [3, 2], num_classes=3, seed=7)
    for value in features.values():
        value.requires_grad_()

    def run(cascade: CascadeConfig) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        head = instance(lively(tiny(cascade)).box_head, CascadeHead)
        _, losses = head.losses(features, proposals, images, targets, torch.tensor(0))
        weight = head.heads()[0].logits.weight
        gradient, own = torch.autograd.grad(total(losses), (features["p2"], weight))
        return losses, gradient, own

    whole, gradient, own = run(CascadeConfig(feature_gradient=1.0))
    third, smaller, same = run(CascadeConfig(feature_gradient=1 / 3))
    for name, loss in whole.items():
        assert torch.equal(loss, third[name])
    torch.testing.assert_close(smaller, gradient / 3)
    torch.testing.assert_close(own, same)
    halved, _, _ = run(CascadeConfig(loss_weights=(1.0, 0.5, 0.25)))
    for name, loss in halved.items():
        torch.testing.assert_close(loss, whole[name] * (1.0, 0.5, 0.25)[int(name[-1])])


@torch.no_grad()
def test_masks_of_each_stage_are_averaged() -> None:
    detector = lively(tiny(replace(CascadeConfig(), mask_heads="each"))).eval()
    assert {name.split(".")[2] for name in detector.state_dict() if name.startswith("mask_head.stages.")} == set("012")
    features, proposals, images = inputs()
    detections = instance(detector.box_head, CascadeHead).predict(features, proposals, images)
    head = instance(detector.mask_head, CascadeMaskHead)
    found = head.predict(features, detections, images).masks
    each = [present(stage.predict(features, detections, images).masks) for stage in head.heads()]
    torch.testing.assert_close(found, (each[0] + each[1] + each[2]) / 3)
    assert not torch.equal(each[0], each[1])


@pytest.mark.parametrize("cascade", [CascadeConfig(), MMDETECTION, replace(CascadeConfig(), mask_heads="each")])
def test_it_overfits_two_images(cascade: CascadeConfig) -> None:
    torch.manual_seed(0)
    config = override(tiny(cascade, "sampling.batch_size=32"), ["rpn.proposals.post_nms_train=100"])
    detector = build_detector(config).train()
    sizes = [(64, 96), (96, 64)]
    images, targets = random_images(sizes, seed=1), random_targets(sizes, [3, 2], num_classes=3, seed=2)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    totals = []
    for step in range(20):
        losses = detector(images, targets, torch.tensor(step))
        masks = {"mask_0", "mask_1", "mask_2"} if cascade.mask_heads == "each" else {"mask"}
        boxes = {f"box_{part}_{number}" for part in ("class", "delta") for number in range(3)}
        assert set(losses) == {"rpn_objectness", "rpn_box"} | boxes | masks
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        # boxes have more to learn once there are objects among the later stages' regions
        totals.append(sum(loss.item() for name, loss in losses.items() if not name.startswith("box_delta")))
    assert sum(totals[-3:]) < 0.65 * sum(totals[:3])


def test_images_without_objects_teach_background_alone() -> None:
    detector = lively(tiny(MMDETECTION)).train()
    images, targets = random_images(SIZES, seed=1), random_targets(SIZES, [0, 0], num_classes=3, seed=2)
    losses = detector(images, targets, torch.tensor(0))
    assert all(loss.isfinite() for loss in losses.values())
    assert all((loss == 0) == (not name.startswith(("box_class", "rpn_obj"))) for name, loss in losses.items())
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in detector.parameters())


@torch.no_grad()
def test_a_batch_equals_its_single_images() -> None:
    detector = lively(tiny(None, "score_threshold=0.1")).eval()
    images = random_images(SIZES, seed=3)
    together = detector.predict(images)
    assert together.valid.any(1).all()
    for image in range(2):
        alone = detector.predict(random_images(SIZES, seed=3)._map(lambda value, i=image: value[i : i + 1]))
        for field in ("boxes", "scores", "labels", "valid", "masks"):
            torch.testing.assert_close(getattr(together, field)[image], getattr(alone, field)[0], atol=1e-3, rtol=1e-3)


def test_keypoints_follow_the_first_stage_in_training_and_the_last_boxes_found() -> None:
    detector = lively(replace(tiny(), num_classes=1, keypoint=KeypointHeadConfig(convs=1, width=16))).train()
    images, targets = random_images(SIZES, seed=1), random_targets(SIZES, [3, 2], num_classes=1, seed=2)
    middle = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    keypoints = torch.cat([middle[:, :, None].repeat(1, 1, 17, 1), torch.full((2, 8, 17, 1), 2.0)], -1)
    losses = detector(images, replace(targets, keypoints=keypoints), torch.tensor(0))
    assert losses["keypoint"] > 0
    found = detector.eval().predict(images)
    assert found.keypoints is not None
    points, boxes = found.keypoints[found.valid], found.boxes[found.valid]
    assert len(boxes) > 10
    assert (points[..., :2] >= boxes[:, None, :2] - 1).all()
    assert (points[..., :2] <= boxes[:, None, 2:] + 1).all()


def test_the_published_networks_have_their_tensors() -> None:
    """tensorpack's own counts of its two zoo models, tensors and elements."""
    for name, expected in (
        ("cascade_mask_rcnn_r50_fpn", (323, 72_091_166)),
        ("cascade_mask_rcnn_r50_fpn_gn", (283, 75_982_494)),
    ):
        with torch.device("meta"):
            state = build_detector(model_config(name)).state_dict()
        assert (len(state), sum(value.numel() for value in state.values())) == expected


def test_invalid_cascades_are_refused_with_the_reason() -> None:
    config = tiny()
    with pytest.raises(ValueError, match=r"cascade\.ious has 2, cascade\.delta_weights has 3, .*per stage"):
        build_detector(replace(config, cascade=CascadeConfig(ious=(0.5, 0.6))))
    c4 = model_config("mask_rcnn_r50_c4")
    with pytest.raises(ValueError, match=r"one head per stage, but box\.trunk=res5 \(C4\)"):
        build_detector(replace(c4, cascade=CascadeConfig()))
    with pytest.raises(ValueError, match=r"box\.class_weights has length 2; expected 4: .*num_classes is 3"):
        build_detector(tiny(None, "class_weights=[1, 2]"))
    with pytest.raises(ValueError, match=r"norm=gn needs a multiple of 32 channels, got 40"):
        build_detector(tiny(None, "convs=1", "conv_width=40", "norm=gn"))
