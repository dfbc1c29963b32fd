"""The diagnostics of a batch, against slow loops over anchors, regions and pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rcnn.data.loading import TrainingBatch
from rcnn.drawing.charts import DIAGNOSTICS, loss_parts, training_charts
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.heads.mask import MaskHead
from rcnn.models.heads.regions import Regions
from rcnn.models.overrides import override
from rcnn.training.diagnostics import Ratio, anchor_values, diagnostics, region_values
from rcnn.training.log import read_log
from tests.tiny_data import TINY_MODEL
from tests.unit.random_batches import random_images, random_targets
from tests.unit.training.runs import train
from tests.unit.training.test_engine import SETTINGS, stream

SIZES = [(64, 96), (64, 96)]


def tiny(model: str = "mask_rcnn_compact") -> Detector:
    torch.manual_seed(0)
    return build_detector(override(model_config(model), [*TINY_MODEL, "num_classes=2"])).train()


def a_batch() -> TrainingBatch:
    images, targets = random_images(SIZES, seed=1), random_targets(SIZES, [3, 2], 2, capacity=3, seed=1)
    return TrainingBatch(images=images, targets=targets, image_ids=(0, 1))


def numbers(values: dict[str, Ratio]) -> dict[str, float]:
    return {name: (value.part / value.whole).item() for name, value in values.items()}


def test_anchors_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(2, 50, generator=generator)
    positive, valid = torch.rand(2, 50, generator=generator) < 0.3, torch.rand(2, 50, generator=generator) < 0.8
    values = numbers(anchor_values(logits, positive, valid))
    rows = [
        (1 / (1 + math.exp(-logits[b, s])), bool(positive[b, s])) for b in range(2) for s in range(50) if valid[b, s]
    ]
    assert values["anchors_positive"] == sum(is_object for _, is_object in rows) / 2
    assert values["anchors_negative"] == sum(not is_object for _, is_object in rows) / 2
    for name, threshold in {"50": 0.5, "70": 0.7, "90": 0.9}.items():
        found = [is_object for objectness, is_object in rows if objectness > threshold]
        every = sum(is_object for _, is_object in rows)
        assert values[f"rpn_precision_{name}"] == pytest.approx(sum(found) / len(found))
        assert values[f"rpn_recall_{name}"] == pytest.approx(sum(found) / every)


def test_regions_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 30, 4, generator=generator)  # three classes
    labels = torch.randint(4, (2, 30), generator=generator)
    valid = torch.rand(2, 30, generator=generator) < 0.7
    boxes, matched = torch.zeros(2, 30, 4), torch.zeros(2, 30, dtype=torch.int64)
    regions = Regions(boxes=boxes, matched=matched, labels=labels, positive=labels < 3, valid=valid, max_positives=30)
    values = numbers(region_values(logits, regions))
    right, positives = list[bool](), list[bool]()
    for b in range(2):
        for r in range(30):
            if valid[b, r]:
                scores = logits[b, r].tolist()
                right.append(scores.index(max(scores)) == int(labels[b, r]))
                positives += [right[-1]] if labels[b, r] < 3 else []
    assert values["class_accuracy"] == pytest.approx(sum(right) / len(right))
    assert values["class_accuracy_positive"] == pytest.approx(sum(positives) / len(positives))
    assert (values["regions_positive"], values["regions_negative"]) == (
        len(positives) / 2,
        (len(right) - len(positives)) / 2,
    )


def test_the_pixels_of_masks_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = tiny()
    head = detector.mask_head
    assert isinstance(head, MaskHead)
    kept = dict[str, torch.Tensor]()
    predict, masks_of = head.class_logits, head.mask_targets.__class__.__call__

    def watched_logits(maps: torch.Tensor, labels: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        kept["logits"], kept["positive"] = predict(maps, labels, valid), valid
        return kept["logits"]

    def watched_masks(*arguments: Any) -> torch.Tensor:
        kept["masks"] = masks_of(*arguments)
        return kept["masks"]

    monkeypatch.setattr(head, "class_logits", watched_logits)
    monkeypatch.setattr(head.mask_targets.__class__, "__call__", watched_masks)
    values = diagnostics(detector, a_batch(), torch.tensor([5, 0]))
    fractions = []
    for b, r in kept["positive"].nonzero().tolist():
        logits, masks = kept["logits"][b, r].flatten().tolist(), kept["masks"][b, r].flatten().tolist()
        right = [(logit > 0) == (mask > 0.5) for logit, mask in zip(logits, masks, strict=True)]
        fractions.append(sum(right) / len(right))
    assert len(fractions) > 1
    assert values[DIAGNOSTICS + "mask_accuracy"] == pytest.approx(sum(fractions) / len(fractions))


def test_masks_of_a_c4_model_with_own_mask_layers() -> None:
    """The box head's res5 outputs maps too, which are not those that this mask head reads."""
    own = ["mask.trunk=convs", "mask.convs=1", "mask.width=8"]
    words = [*own, "num_classes=2", "rpn.proposals.post_nms_train=20", "box.sampling.batch_size=8"]
    detector = build_detector(override(model_config("mask_rcnn_r50_c4"), words)).train()
    assert 0 <= diagnostics(detector, a_batch(), torch.tensor([5, 0]))[DIAGNOSTICS + "mask_accuracy"] <= 1


@pytest.mark.parametrize("model", ["mask_rcnn_compact", "cascade_mask_rcnn_compact", "fcis_compact"])
def test_weights_statistics_and_mode_stay_as_they_were(model: str) -> None:
    detector = tiny(model) if model != "fcis_compact" else build_detector(model_config(model)).train()
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    first = diagnostics(detector, a_batch(), torch.tensor([5, 0]))
    assert first == diagnostics(detector, a_batch(), torch.tensor([5, 0]))
    assert detector.training
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert first[DIAGNOSTICS + "anchors_positive"] > 0
    assert all(math.isfinite(value) for value in first.values())


def test_images_without_objects_have_no_recall() -> None:
    images, targets = random_images(SIZES, seed=1), random_targets(SIZES, [0, 0], 2, capacity=1, seed=1)
    values = diagnostics(tiny(), TrainingBatch(images=images, targets=targets, image_ids=(0, 1)), torch.tensor([5, 0]))
    assert DIAGNOSTICS + "rpn_recall_50" not in values
    assert values[DIAGNOSTICS + "regions_positive"] == 0


def test_the_log_has_them_and_the_charts_do_not_take_them_for_losses(tmp_path: Path) -> None:
    train(tiny(), stream, SETTINGS, tmp_path)
    lines = read_log(tmp_path / "log.jsonl")
    assert all(0 <= line[DIAGNOSTICS + "class_accuracy"] <= 1 for line in lines)
    assert loss_parts(lines) == ["rpn_objectness", "rpn_box", "box_class", "box_delta", "mask"]
    assert "Diagnostics of training batches, smoothed" in [chart.title for chart in training_charts(lines)]


def test_one_process_has_them_with_divided_weights_too(tmp_path: Path) -> None:
    """It holds all of the weights."""
    train(tiny(), stream, replace(SETTINGS, steps=1, shard=True), tmp_path)
    assert DIAGNOSTICS + "class_accuracy" in read_log(tmp_path / "log.jsonl")[0]
