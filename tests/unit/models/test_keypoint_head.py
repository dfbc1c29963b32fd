"""The keypoint head alone and in detectors: losses against a slow loop, training, one compiled graph."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcnn.models import Detector, build_detector, model_config
from rcnn.models.config import KeypointHeadConfig
from rcnn.models.heads.keypoint import require_consistent_keypoints
from rcnn.models.heads.regions import Regions
from rcnn.models.overrides import override
from rcnn.structures import Targets
from tests.compiled import BACKWARD, FORWARD
from tests.known_features import leaves
from tests.narrow import present
from tests.unit.random_batches import images_of, random_images, random_targets

SIZES = [(96, 128), (128, 80)]
SMALL = (
    "backbone.widths=[16,16,16,16]", "fpn.channels=16", "rpn.sampling.batch_size=16", "rpn.proposals.pre_nms_train=50",
    "rpn.proposals.pre_nms=50", "rpn.proposals.post_nms_train=20", "rpn.proposals.post_nms=20", "box.fc_width=32",
    "box.sampling.batch_size=16", "box.selection.max_detections=6",
    "box.score_threshold=0.0", "keypoint.width=16", "keypoint.convs=1",
)  # fmt: skip


def compact(*overrides: str, joints: int = 17) -> Detector:
    torch.manual_seed(0)
    config = model_config("keypoint_rcnn_compact")
    names = tuple(f"point {number}" for number in range(joints))
    keypoint = replace(present(config.keypoint), names=names, flip_pairs=(), sigmas=(0.1,) * joints)
    return build_detector(override(replace(config, keypoint=keypoint), [*SMALL, *overrides]))


def persons(counts: list[int], joints: int = 17, seed: int = 0) -> Targets:
    """Objects with keypoints in and around their boxes, some of them not given."""
    plain = random_targets(SIZES, counts, num_classes=1, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(*plain.valid.shape, joints, 2, generator=generator) * 1.2 - 0.1
    points = plain.boxes[:, :, None, :2] + spread * (plain.boxes[..., 2:] - plain.boxes[..., :2])[:, :, None]
    seen = torch.randint(0, 3, (*plain.valid.shape, joints, 1), generator=generator)
    return replace(plain, polygons=None, keypoints=torch.cat([points, seen], -1) * plain.valid[..., None, None])


def regions_of(targets: Targets) -> Regions:
    """The ground-truth boxes, moved slightly, and as many background boxes."""
    boxes = torch.cat([targets.boxes + torch.tensor([-2.0, -3, 4, 1]), targets.boxes], 1)
    count = targets.valid.shape[1]
    matched = torch.arange(count).repeat(2).expand(len(boxes), -1)
    positive = torch.cat([targets.valid, torch.zeros_like(targets.valid)], 1)
    return Regions(
        boxes=boxes,
        matched=matched,
        labels=torch.where(positive, 0, 1),
        positive=positive,
        valid=torch.ones_like(positive),
        max_positives=positive.shape[1],
    )


def slow_sum(logits: Tensor, regions: Regions, targets: Targets) -> tuple[float, int]:
    """The sum of the cross-entropy of visible keypoints, and their number."""
    total, count, side = 0.0, 0, logits.shape[-1]
    keypoints = present(targets.keypoints)
    for image, row in regions.positive.nonzero().tolist():
        x1, y1, x2, y2 = regions.boxes[image, row].tolist()
        for joint, (x, y, seen) in enumerate(keypoints[image, regions.matched[image, row]].tolist()):
            column, line = math.floor((x - x1) * side / (x2 - x1)), math.floor((y - y1) * side / (y2 - y1))
            if seen > 0 and 0 <= column < side and 0 <= line < side:
                one = logits[image, row, joint]
                total += (one.flatten().logsumexp(0) - one[line, column]).item()
                count += 1
    return total, count


@pytest.mark.parametrize(("normalizer", "weight"), [("visible", 1.0), ("batch_size", 2.0)])
def test_loss_equals_a_slow_loop(normalizer: str, weight: float) -> None:
    detector = compact(f"keypoint.normalizer={normalizer}", f"keypoint.loss_weight={weight}", joints=5)
    targets = persons([3, 2], joints=5)
    regions = regions_of(targets)
    features = detector.features(random_images(SIZES, seed=1))
    head = present(detector.keypoint_head)
    positives = head.positives_per_image = 12.5
    images = images_of(torch.tensor(SIZES))
    loss = head.losses(features, regions, images, targets, torch.tensor(0))["keypoint"]
    logits = head.heatmaps(features, regions.boxes, regions.positive)
    assert logits.shape == (2, 16, 5, 40, 40)
    total, count = slow_sum(logits, regions, targets)
    assert 5 < count < 25
    expected = total / count if normalizer == "visible" else total / (2 * positives * 5)
    assert loss.item() == pytest.approx(weight * expected, rel=1e-5)


def test_without_keypoints_the_loss_is_zero_and_has_a_gradient() -> None:
    detector = compact()
    targets = persons([2, 0])
    targets = replace(targets, keypoints=torch.zeros_like(present(targets.keypoints)))
    losses = detector.losses(random_images(SIZES), targets, torch.tensor(0))
    assert losses["keypoint"].item() == 0
    losses["keypoint"].backward()
    gradient = present(detector.keypoint_head).get_parameter("logits.weight").grad
    assert float(present(gradient).abs().sum()) == 0


def test_targets_of_another_kind_are_refused() -> None:
    detector = compact()
    with pytest.raises(ValueError, match=r"trains on Targets\.keypoints, but the batch has none"):
        detector.losses(random_images(SIZES), replace(persons([1, 1]), keypoints=None), torch.tensor(0))
    with pytest.raises(
        ValueError, match=r"objects have 5 keypoints, but this model has 17 \(point 0, point 1, point 2, ...\)"
    ):
        detector.losses(random_images(SIZES), persons([1, 1], joints=5), torch.tensor(0))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (replace(KeypointHeadConfig(), names=()), "keypoint.names is empty"),
        (replace(KeypointHeadConfig(), sigmas=(0.1, 0.2)), "keypoint.sigmas has 2 numbers; expected 17"),
        (
            replace(KeypointHeadConfig(), flip_pairs=((1, 17),)),
            r"keypoint.flip_pairs has \(1, 17\); expected numbers from 0 to 16",
        ),
        (replace(KeypointHeadConfig(), skeleton=((-1, 2),)), r"keypoint.skeleton has \(-1, 2\)"),
        (
            replace(KeypointHeadConfig(), flip_pairs=((1, 2), (2, 3))),
            r"keypoint.flip_pairs exchanges keypoint 2 with 1 and with 3; expected each keypoint in one pair",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config: KeypointHeadConfig, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        require_consistent_keypoints(config)


def test_every_valid_detection_has_keypoints() -> None:
    detector = compact().eval()
    found = detector.predict(random_images(SIZES, seed=2))
    keypoints = present(found.keypoints)
    assert keypoints.shape == (2, 6, 17, 3)
    assert bool(found.valid.any())
    assert not keypoints[~found.valid].any()
    points, boxes = keypoints[found.valid], found.boxes[found.valid]
    assert bool((points[..., :2] >= boxes[:, None, :2]).all())
    ends = torch.maximum(boxes[:, 2:], boxes[:, :2] + 1)  # a side counts as one pixel at least
    assert bool((points[..., :2] <= ends[:, None]).all())
    assert bool((points[..., 2] > 0).all())


def test_a_batch_equals_its_images() -> None:
    detector = compact().eval()
    images = random_images(SIZES, (128, 128), seed=3)
    whole = detector.predict(images)
    for i in range(2):
        one = detector.predict(replace(images, pixels=images.pixels[i : i + 1], sizes=images.sizes[i : i + 1]))
        torch.testing.assert_close(present(one.keypoints)[0], present(whole.keypoints)[i], atol=2e-3, rtol=1e-3)


def test_a_model_can_have_masks_and_keypoints() -> None:
    config = replace(model_config("mask_rcnn_compact"), keypoint=model_config("keypoint_rcnn_compact").keypoint)
    detector = build_detector(override(replace(config, num_classes=1), [*SMALL, "mask.width=16"]))
    outlined = random_targets(SIZES, [2, 3], num_classes=1)
    targets = replace(outlined, keypoints=persons([2, 3]).keypoints)
    losses = detector.losses(random_images(SIZES), targets, torch.tensor(0))
    assert {"mask", "keypoint"} <= set(losses)
    found = detector.eval().predict(random_images(SIZES))
    assert found.masks is not None
    assert found.keypoints is not None


@pytest.mark.compile
@pytest.mark.parametrize("name", ["keypoint_rcnn_compact", "keypoint_rcnn_fbnetv3a_c4"])
def test_prediction_and_losses_are_one_graph(name: str) -> None:
    """The graphs begin at the detections and the regions; test_zoo.py compiles the stages before."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    words = (
        SMALL
        if name == "keypoint_rcnn_compact"
        else ("rpn.proposals.pre_nms=50", "rpn.proposals.post_nms=10", "rpn.proposals.post_nms_train=20")
    )
    detector = build_detector(override(model_config(name), [*words, "box.score_threshold=0.0"])).eval()
    images, targets = random_images(SIZES, seed=1), persons([3, 1])
    maps, head = leaves(detector, images), present(detector.keypoint_head)
    with torch.no_grad():
        expected = detector.predict(images)
        found = torch.compile(head.predict, fullgraph=True, backend=FORWARD)(
            maps, replace(expected, keypoints=None), images
        )
    assert expected.valid.any()
    torch.testing.assert_close(found.keypoints, expected.keypoints, atol=2e-3, rtol=1e-3)
    regions = regions_of(targets)
    loss = head.losses(maps, regions, images, targets, torch.tensor(5))["keypoint"]
    loss.backward()
    weight = head.get_parameter("logits.weight" if name == "keypoint_rcnn_compact" else "logits.pwl.weight")
    gradient = present(weight.grad).clone()
    detector.zero_grad(set_to_none=True)
    compiled = torch.compile(head.losses, fullgraph=True, backend=BACKWARD)
    again = compiled(maps, regions, images, targets, torch.tensor(5))["keypoint"]
    torch.testing.assert_close(again, loss, atol=1e-5, rtol=1e-4)
    again.backward()
    scale = gradient.abs().max()
    torch.testing.assert_close(present(weight.grad) / scale, gradient / scale, atol=1e-3, rtol=1e-3)
