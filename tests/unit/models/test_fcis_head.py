"""FCIS's second stage: losses and detections, single and in a batch, eager and compiled."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.models import Detector, build_detector
from rcnn.models.config import (
    FCIS_SAMPLING,
    AnchorConfig,
    CascadeConfig,
    CompactConfig,
    DetectorConfig,
    FBNetConfig,
    FCISConfig,
    FPNConfig,
    InputConfig,
    KeypointHeadConfig,
    LegacyFCISConfig,
    MaskHeadConfig,
    ProposalConfig,
    RPNConfig,
)
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.zoo import fcis
from rcnn.ops.bitmap_targets import cut_bitmaps
from rcnn.ops.boxes import box_iou
from rcnn.ops.pasting import Paste, paste_as
from rcnn.predictor import Predictor
from rcnn.structures import ImageBatch, Targets
from tests.compiled import BACKWARD, FORWARD
from tests.known_features import known_features, leaves
from tests.unit.ops.test_mask_voting import slow_resize
from tests.unit.random_batches import random_images, random_targets

SIZES = [(96, 128), (128, 112)]
CLASSES = 3


def tiny(settings: FCISConfig | None = None) -> DetectorConfig:
    """Three classes, a compact trunk, thirty proposals."""
    return DetectorConfig(
        name="tiny",
        num_classes=CLASSES,
        input=InputConfig(divisor=0),
        backbone=CompactConfig(widths=(16, 16, 32, 32), res5_stride=1),
        fpn=None,
        rpn=RPNConfig(
            width=32,
            anchors=AnchorConfig(sizes=((16.0, 32.0, 64.0),)),
            proposals=ProposalConfig(pre_nms_train=100, pre_nms=100, post_nms_train=40, post_nms=30),
        ),
        fcis=settings or FCISConfig(width=32, sampling=replace(FCIS_SAMPLING, batch_size=16)),
    )


def detector_of(config: DetectorConfig, seed: int = 0) -> Detector:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        detector = build_detector(config)
        assert isinstance(detector.box_head, FCISHead)
        for layer in (detector.box_head.maps, detector.box_head.deltas):
            torch.nn.init.normal_(layer.weight, std=0.3)
    return detector.eval()


def bitmap_targets(sizes: list[tuple[int, int]] = SIZES) -> Targets:
    """Random boxes, each filled by an ellipse."""
    outlined = random_targets(sizes, [3, 2], CLASSES)
    height, width = random_images(sizes).pixels.shape[2:]
    y, x = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    x1, y1, x2, y2 = (value[..., None, None] for value in outlined.boxes.unbind(-1))
    inside = (2 * (x - x1) / (x2 - x1) - 1) ** 2 + (2 * (y - y1) / (y2 - y1) - 1) ** 2 <= 1
    return replace(outlined, polygons=None, bitmaps=inside & outlined.valid[..., None, None])


def run_head(detector: Detector, targets: Targets) -> tuple[FCISHead, dict[str, Tensor], dict[str, Tensor]]:
    """The head's losses on the detector's own proposals, and the features that they came from."""
    images = random_images(SIZES)
    features = detector.features(images)
    proposals, _ = detector.rpn.losses(features, images, targets, torch.tensor(0))
    assert isinstance(detector.box_head, FCISHead)
    _, losses = detector.box_head.losses(features, proposals, images, targets, torch.tensor(0))
    return detector.box_head, losses, features


def test_every_weight_learns() -> None:
    detector = build_detector(tiny()).train()
    losses = detector.losses(random_images(SIZES), bitmap_targets(), torch.tensor(0))
    assert set(losses) == {"rpn_objectness", "rpn_box", "box_class", "box_delta", "mask"}
    torch.stack(list(losses.values())).sum().backward()
    assert [name for name, value in detector.named_parameters() if value.grad is None] == []


@torch.no_grad()
def test_ohem_selects_the_hardest_regions() -> None:
    """The three losses, region by region; the 16 hardest of each image are trained on."""
    detector, targets = detector_of(tiny()), bitmap_targets()
    head, losses, features = run_head(detector, targets)
    images = random_images(SIZES)
    proposals, _ = detector.rpn.losses(features, images, targets, torch.tensor(0))
    head.config = replace(
        head.config, ohem=False, sampling=replace(FCIS_SAMPLING, batch_size=1000, positive_fraction=1.0)
    )
    regions, _ = head.losses(features, proposals, images, targets, torch.tensor(0))
    pooled = head.pool(head.score_maps(features), regions.boxes, regions.valid)
    masks, _ = head.mask_loss_per_region(pooled.outside_inside, regions, images, targets)
    moved = head.box_loss_per_region(pooled.deltas, regions, targets)
    expected = torch.zeros(3)
    count = 0
    for image in range(2):
        parts = []
        for place in range(regions.valid.shape[1]):
            if regions.valid[image, place]:
                logits, label = pooled.logits[image, place], regions.labels[image, place]
                parts.append(torch.stack([F.cross_entropy(logits, label), moved[image, place], masks[image, place]]))
        hardest = sorted(parts, key=lambda part: -float(part[0] + part[1] + 10 * part[2]))[:16]
        assert len(parts) > 16
        expected += torch.stack(hardest).sum(0)
        count += len(hardest)
    got = torch.stack([losses["box_class"], losses["box_delta"], losses["mask"] / 10])
    torch.testing.assert_close(got, expected / count)


@torch.no_grad()
def test_mask_loss_over_pixels_is_a_mean_over_objects() -> None:
    targets = bitmap_targets()
    every = FCISConfig(width=32, ohem=False, sampling=replace(FCIS_SAMPLING, batch_size=1000, positive_fraction=1.0))
    _, by_region, _ = run_head(detector_of(tiny(every)), targets)
    detector = detector_of(tiny(replace(every, legacy=LegacyFCISConfig(mask_loss="pixels"))))
    _, by_pixel, features = run_head(detector, targets)
    assert isinstance(detector.box_head, FCISHead)
    images = random_images(SIZES)
    proposals, _ = detector.rpn.losses(features, images, targets, torch.tensor(0))
    regions, _ = detector.box_head.losses(features, proposals, images, targets, torch.tensor(0))
    share = regions.positive.sum() / regions.valid.sum()
    assert 0 < share < 1
    torch.testing.assert_close(by_pixel["mask"] * share * 10, by_region["mask"])


def test_images_without_objects_teach_background() -> None:
    targets = bitmap_targets()
    empty = replace(targets, valid=torch.zeros_like(targets.valid))
    losses = detector_of(tiny()).losses(random_images(SIZES), empty, torch.tensor(0))
    assert all(value.isfinite() for value in losses.values())
    assert losses["mask"] == losses["box_delta"] == 0
    assert losses["box_class"] > 0


def test_bitmaps_are_needed() -> None:
    with pytest.raises(ValueError, match=r"Targets\.bitmaps"):
        run_head(detector_of(tiny()), random_targets(SIZES, [1, 1], CLASSES))


@pytest.mark.parametrize("within", [False, True])
def test_ground_truth_masks_equal_a_crop_and_a_resize(within: bool) -> None:
    """The object, or its part inside its box, cropped at whole pixels and resized; thresholded at .4."""
    generator = torch.Generator().manual_seed(0)
    bitmaps = torch.rand(1, 3, 40, 50, generator=generator) < 0.6
    own = torch.tensor([[[5.2, 3.1, 30.4, 22.7], [0, 0, 50, 40], [20.6, 11.4, 44.1, 39.2]]])
    boxes = torch.tensor([[[2.3, 4.4, 28.8, 30.1], [10, 10, 13, 35], [15.4, 5.5, 50, 40], [0, 0, 9, 9]]])
    matched = torch.tensor([[0, 1, 2, 0]])
    valid = torch.tensor([[True, True, True, False]])
    sizes = torch.tensor([[40, 50]])
    cut = cut_bitmaps(bitmaps, matched, boxes, valid, 9, "resized", sizes, within=own if within else None, least=0.4)
    assert (cut[0, 3] == 0).all()
    for place in range(3):
        canvas = np.zeros((40, 50))
        x1, y1, x2, y2 = (round(value) for value in own[0, matched[0, place]].tolist())
        seen = (slice(y1, y2), slice(x1, x2)) if within else (slice(None), slice(None))
        canvas[seen] = bitmaps[0, matched[0, place]].numpy()[seen]
        x1, y1, x2, y2 = (round(value) for value in boxes[0, place].tolist())
        expected = slow_resize(canvas[y1:y2, x1:x2], 9, 9)
        clear = np.abs(expected - 0.4) > 1e-5
        np.testing.assert_array_equal(cut[0, place].numpy()[clear], (expected >= 0.4)[clear])


@torch.no_grad()
def test_masks_are_of_the_likeliest_class_and_classes_of_the_larger_map() -> None:
    head = detector_of(tiny()).box_head
    assert isinstance(head, FCISHead)
    features = {"c5": torch.randn(1, 32, 6, 7, generator=torch.Generator().manual_seed(0))}
    boxes, valid = torch.tensor([[[5.0, 8, 70, 90], [30, 20, 60, 60]]]), torch.ones(1, 2, dtype=torch.bool)
    maps = head.score_maps(features)
    pooled = head.pool(maps, boxes, valid)
    scores, masks, _ = head.predict_regions(maps, boxes, valid)
    for place in range(2):
        outside_inside = pooled.outside_inside[0, place].numpy()  # (K + 1, 2, s, s)
        logits = np.array([np.maximum(pair[0], pair[1]).mean() for pair in outside_inside])
        probabilities = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(scores[0, place].numpy(), probabilities[:-1], rtol=1e-4)
        outside, inside = outside_inside[logits.argmax()]
        np.testing.assert_allclose(masks[0, place], np.exp(inside) / (np.exp(inside) + np.exp(outside)), atol=1e-5)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_batch_equals_its_images(scaled: bool) -> None:
    detector = detector_of(tiny())
    pixels = random_images([(128, 128), (128, 128)])
    scales = torch.tensor([1.6, 0.8]) if scaled else None
    batch = ImageBatch(pixels=pixels.pixels, sizes=pixels.sizes, scales=scales)
    together = detector.predict(batch)
    assert together.valid.sum() > 10
    assert together.masks is not None
    assert together.masks.shape[2:] == (21, 21)
    for image in range(2):
        one = slice(image, image + 1)
        part = ImageBatch(
            pixels=batch.pixels[one], sizes=batch.sizes[one], scales=None if scales is None else scales[one]
        )
        alone = detector.predict(part)
        assert (alone.valid[0] == together.valid[image]).all()
        torch.testing.assert_close(alone.boxes[0], together.boxes[image], atol=1e-3, rtol=0)
        torch.testing.assert_close(alone.scores[0], together.scores[image])
        assert alone.masks is not None
        torch.testing.assert_close(alone.masks[0], together.masks[image], atol=1e-4, rtol=0)


def test_voted_boxes_are_whole_pixels_of_the_file() -> None:
    detector = detector_of(tiny())
    images = random_images([(128, 112)])
    scale = torch.tensor([1.6])
    found = detector.predict(replace(images, scales=scale, originals=torch.tensor([[80, 70]])))
    boxes = found.boxes[found.valid] / 1.6
    assert len(boxes) > 5
    torch.testing.assert_close(boxes, boxes.round(), atol=1e-3, rtol=0)
    assert (boxes[:, 2] <= 70.001).all()
    assert (boxes[:, 3] <= 80.001).all()


def test_without_voting_and_a_second_pass_the_boxes_are_proposals() -> None:
    detector = detector_of(tiny(FCISConfig(width=32, refine=False, vote_iou=0.0)))
    images = random_images([(128, 112)])
    found = detector.predict(images)
    proposals = detector.rpn.predict(detector.features(images), images)
    distance = (found.boxes[found.valid][:, None] - proposals.boxes[0][None]).abs().amax(-1).amin(1)
    assert len(distance) > 5
    assert distance.max() < 1e-3


@pytest.mark.parametrize("vote_iou", [0.0, 0.5])
@torch.no_grad()
def test_rows_that_are_not_valid_hold_zeros_whatever_the_candidates_hold(vote_iou: float) -> None:
    """The padding repeats the first candidate, here NaN."""
    head = detector_of(tiny(FCISConfig(width=32, vote_iou=vote_iou))).box_head
    assert isinstance(head, FCISHead)
    boxes = torch.tensor([[[0.0, 0, 1, 1], [10, 20, 40, 60], [50, 30, 90, 100]]])
    scores = torch.tensor([[[0.1, 0.1, 0.1], [0.9, 0, 0], [0, 0.8, 0]]])
    masks, valid = torch.full((1, 3, 21, 21), 0.9), torch.tensor([[False, True, True]])
    images = random_images([(128, 112)])
    expected = head.detections(boxes, scores, masks, valid, images)
    boxes[0, 0], scores[0, 0], masks[0, 0] = torch.nan, torch.nan, torch.nan
    found = head.detections(boxes, scores, masks, valid, images)
    assert found.valid.sum() == 2
    pairs = (found.boxes, expected.boxes), (found.scores, expected.scores), (found.masks, expected.masks)
    for each, other in pairs:
        assert each is not None
        assert other is not None
        assert torch.equal(each, other)
        assert not each[~found.valid].any()


def test_scales_are_not_clipped() -> None:
    """None of the three systems clips scales: deltas may enlarge a side a hundredfold."""
    head = detector_of(tiny()).box_head
    assert isinstance(head, FCISHead)
    maps = torch.zeros(1, 2 * (CLASSES + 1) * 49, 8, 8), torch.zeros(1, 4 * 49, 8, 8)
    maps[1].unflatten(1, (4, 49))[:, 2] = np.log(100) * 2  # dw, whose weight is 2
    moved = head.predict_regions(maps, torch.tensor([[[40.0, 40, 48, 60]]]), torch.ones(1, 1, dtype=torch.bool))[2]
    torch.testing.assert_close(moved, torch.tensor([[[44.0 - 400, 40, 44 + 400, 60]]]))


@pytest.mark.parametrize("drop", ["before", "after"])
def test_small_detections_are_dropped(drop: str) -> None:
    settings = FCISConfig(
        width=32, min_size=20.0, legacy=LegacyFCISConfig(drop="before" if drop == "before" else "after")
    )
    found = detector_of(tiny(settings)).predict(random_images([(128, 112)]))
    sides = (found.boxes[..., 2:] - found.boxes[..., :2])[found.valid]
    assert len(sides) > 0
    if drop == "after":
        assert sides.min() > 20


@pytest.mark.compile
def test_fullgraph() -> None:
    detector, images, targets = detector_of(tiny()), random_images(SIZES), bitmap_targets()
    torch._dynamo.reset()
    maps = leaves(detector, images)
    predict = torch.compile(detector.predict, fullgraph=True, backend=FORWARD)
    with torch.no_grad(), known_features(detector, maps):
        eager, compiled = detector.predict(images), predict(images)
    assert (eager.valid == compiled.valid).all()
    torch.testing.assert_close(compiled.boxes, eager.boxes, atol=1e-3, rtol=1e-4)
    learn = torch.compile(detector.losses, fullgraph=True, backend=BACKWARD)
    seed = torch.tensor(0)
    with known_features(detector, maps):
        expected, losses = detector.losses(images, targets, seed), learn(images, targets, seed)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, atol=1e-4, rtol=1e-4)
    torch.stack(list(losses.values())).sum().backward()
    after_the_maps = [p for n, p in detector.named_parameters() if n.startswith(("rpn.", "box_head."))]
    assert all(value.grad is not None for value in (*after_the_maps, *(maps[name] for name in ("c4", "c5"))))


def test_it_overfits_two_images() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = build_detector(
            tiny(
                FCISConfig(
                    width=32,
                    sampling=replace(FCIS_SAMPLING, batch_size=32),
                    legacy=LegacyFCISConfig(rounded_regions=False),
                )
            )
        ).train()
    targets = bitmap_targets()
    assert targets.bitmaps is not None
    images = random_images(SIZES)
    shown = images.pixels // 4
    for image, label, bitmap in zip(*targets.valid.nonzero(as_tuple=True), targets.bitmaps[targets.valid], strict=True):
        shown[image, int(targets.labels[image, label]), bitmap] = 250
    images = replace(images, pixels=shown)
    optimizer = torch.optim.AdamW(detector.parameters(), lr=2e-3)
    totals = []
    for step in range(80):
        losses = torch.stack(list(detector.losses(images, targets, torch.tensor(step)).values())).sum()
        optimizer.zero_grad(set_to_none=True)
        losses.backward()
        optimizer.step()
        totals.append(losses.item())
    assert sum(totals[-5:]) < 0.4 * sum(totals[:5])
    found = detector.eval().predict(images)
    for image in range(2):  # the best is an object of its class
        same = targets.valid[image] & (targets.labels[image] == found.labels[image, 0])
        assert box_iou(found.boxes[image, :1], targets.boxes[image, same]).max() > 0.5


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(tiny(), mask=MaskHeadConfig()), "combined with a mask head"),
        (replace(tiny(), cascade=CascadeConfig()), "combined with a cascade head"),
        (replace(tiny(), keypoint=KeypointHeadConfig()), "combined with a keypoint head"),
        (replace(tiny(), fpn=FPNConfig()), "fpn=null"),
        (replace(tiny(), proposals_only=True), "proposals_only"),
        (replace(tiny(), backbone=FBNetConfig()), "reads c4 and c5"),
        (replace(tiny(), fcis=FCISConfig(roi_size=20)), "to a multiple of fcis.groups"),
    ],
)
def test_invalid_settings_are_refused(config: DetectorConfig, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        build_detector(config)


@pytest.mark.parametrize("name", fcis.MODELS)
def test_the_zoo_builds(name: str) -> None:
    with torch.device("meta"):
        detector = build_detector(fcis.MODELS[name]())
    head = detector.box_head
    assert isinstance(head, FCISHead)
    assert head.maps.out_channels == 98 * (detector.config.num_classes + 1)
    assert detector.config.name == name


@pytest.mark.parametrize("kind", ["fitted", "fitted_above"])
def test_masks_come_into_the_image_at_their_own_threshold(kind: Paste) -> None:
    """Resized to the rounded box, clipped to the image; the two kinds differ for a value of exactly .4."""
    generator = torch.Generator().manual_seed(0)
    masks = torch.rand(4, 7, 7, generator=generator)
    masks[3] = 0.4
    boxes = torch.tensor([[3.2, 4.4, 21.7, 30.1], [-6.0, -3, 12, 9], [30, 20, 47, 45], [5, 5, 12, 12]])
    for place, (x0, y0, mask) in enumerate(paste_as(kind, masks, boxes, (36, 40), 0.4)):
        canvas = np.zeros((36, 40), dtype=bool)
        canvas[y0 : y0 + mask.shape[0], x0 : x0 + mask.shape[1]] = mask
        x1, y1, x2, y2 = (round(value) for value in boxes[place].tolist())
        values = slow_resize(masks[place].double().numpy(), y2 - y1, x2 - x1)
        expected = np.zeros((36 + 40, 40 + 40), dtype=bool)
        drawn = values >= 0.4 if kind == "fitted" else values > 0.4 + 1e-6
        expected[20 + y1 : 20 + y2, 20 + x1 : 20 + x2] = drawn
        np.testing.assert_array_equal(canvas, expected[20:56, 20:60])
        assert expected.any() or kind == "fitted_above"


def test_predictor_pastes_with_the_systems_rule() -> None:
    predictor = Predictor(
        detector_of(tiny(FCISConfig(width=32, legacy=LegacyFCISConfig(mask_inclusive=False)))), classes=("a", "b", "c")
    )
    [found] = predictor.predict([random_images([(96, 128)]).pixels[0]])
    assert (found.pasting.kind, found.pasting.threshold) == ("fitted_above", 0.4)
    pasted = found.pasted_masks()
    assert pasted is not None
    assert len(found) == len(list(pasted)) > 5
