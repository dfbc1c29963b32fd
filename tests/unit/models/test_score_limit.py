"""`Detector.predict` and `Predictor.predict` with a lowest score: the detections from it on, and no masks of others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rcnn.models import Detector, DetectorConfig, build_detector, model_config
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.overrides import override
from rcnn.prediction_arguments import lowest_score
from rcnn.predictor import Predictor
from rcnn.structures import Detections, ImageBatch
from tests.narrow import instance, present
from tests.tiny_data import TINY_MODEL
from tests.unit.random_batches import random_images

IMAGES = random_images([(96, 128), (64, 80)])


def built(name: str, *words: str) -> Detector:
    """A tiny detector with random weights whose scores differ."""
    torch.manual_seed(0)
    tiny = [word for word in TINY_MODEL if "keypoint" not in name or not word.startswith("mask.")]
    config: DetectorConfig = override(model_config(name), [*tiny, "num_classes=3", "box.score_threshold=0", *words])
    detector = build_detector(config).eval()
    heads = (module for module in detector.modules() if isinstance(module, BoxHead))
    for head in heads:
        nn.init.normal_(head.logits.weight, std=0.5)
    if isinstance(detector.mask_head, MaskHead):
        nn.init.normal_(detector.mask_head.logits.weight, std=2.0)
    return detector


def middle(found: Detections) -> float:
    """A score with some detections above it and some below."""
    return found.scores[found.valid].median().item()


def require_equal(first: Detections, second: Detections) -> None:
    for name in ("boxes", "scores", "labels", "valid"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for name in ("masks", "keypoints"):
        a, b = getattr(first, name), getattr(second, name)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("mask_rcnn_compact", ()),
        ("mask_rcnn_compact", ("mask.vote_iou=0.1",)),
        ("cascade_mask_rcnn_compact", ("cascade.mask_heads=each",)),
        ("keypoint_rcnn_compact", ("num_classes=1",)),
    ],
)
def test_the_detections_are_those_of_the_model_from_the_score_on(name: str, words: tuple[str, ...]) -> None:
    detector = built(name, *words)
    everything = detector.predict(IMAGES)
    score = middle(everything)
    found = detector.predict(IMAGES, score)
    assert 0 < found.valid.sum() < everything.valid.sum()
    assert torch.equal(found.valid, everything.valid & (everything.scores >= score))
    require_equal(found, everything.above(score))
    assert not detector.predict(IMAGES, 1.0).valid.any()
    if "mask.vote_iou=0.1" in words:  # the case says something: without the others, masks would differ
        alone = instance(detector.mask_head, MaskHead).predict(
            detector.features(IMAGES), replace(found, masks=None), IMAGES
        )
        assert (present(alone.masks) - present(found.masks)).abs().max() > 1e-3


def counted_rows(detector: Detector) -> list[int]:
    """A list that grows by the number of regions of each call of the mask head."""
    rows: list[int] = []

    def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows.append(len(inputs[0]))

    instance(detector.mask_head, MaskHead).logits.register_forward_pre_hook(count)
    return rows


def test_masks_below_the_score_are_not_computed() -> None:
    detector = built("mask_rcnn_compact")
    rows = counted_rows(detector)
    everything = detector.predict(IMAGES)
    found = detector.predict(IMAGES, middle(everything))
    most = [int(each.valid.sum(1).max()) for each in (everything, found)]
    assert rows == [2 * count for count in most]
    assert most[1] < most[0]


class Counts(nn.Module):
    """A head of the user's: every mask is the mean score of all detections."""

    def predict(self, features: dict[str, Tensor], detections: Detections, images: ImageBatch) -> Detections:
        mean = detections.scores.mean(1)[:, None, None, None]
        return replace(detections, masks=mean.expand(*detections.valid.shape, 2, 2))


def test_a_head_of_the_user_sees_all_detections() -> None:
    detector = built("mask_rcnn_compact")
    detector.mask_head = Counts()  # type: ignore[bad-assignment]
    everything = detector.predict(IMAGES)
    score = middle(everything)
    found = detector.predict(IMAGES, score)
    assert found.valid.sum() < everything.valid.sum()
    mean = everything.scores.mean(1)[:, None].expand_as(found.valid)[found.valid]  # also of those that are not kept
    assert torch.equal(present(found.masks)[found.valid], mean[:, None, None].expand(-1, 2, 2))
    require_equal(found, everything.above(score))


def test_the_predictor_passes_the_lowest_score_of_all_classes() -> None:
    predictor = Predictor(built("mask_rcnn_compact"), classes=("a", "b", "c"), device="cpu")
    rows = counted_rows(predictor.detector)
    image = IMAGES.pixels[0].to(torch.uint8)
    everything = predictor.predict(image)
    scores = np.sort(everything.scores)
    low, high = float(scores[len(scores) // 3]), float(scores[2 * len(scores) // 3])
    for score in (low, {"a": high, "b": low, "c": high}, {"a": high, "b": low}):
        found, expected = predictor.predict(image, score=score), everything.above(score)
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        np.testing.assert_array_equal(found.scores, expected.scores)
        np.testing.assert_allclose(present(found.box_masks), present(expected.box_masks), atol=1e-6)
    kept = int((scores >= low).sum())
    assert 0 < kept < rows[0]
    assert rows[1:] == [kept, kept, rows[0]]  # the last one keeps all of class c


def test_lowest_score() -> None:
    assert lowest_score(0.3, ["a", "b"]) == 0.3
    assert lowest_score({"a": 0.5, "b": 0.2}, ["a", "b"]) == 0.2
    assert lowest_score({"a": 0.5}, ["a", "b"]) == 0
    assert lowest_score({}, []) == 0
