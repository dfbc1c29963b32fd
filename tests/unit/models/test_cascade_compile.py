"""Every variant of a cascade and its detections is one graph, with the values of eager mode."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from rcnn.models import build_detector, model_config
from rcnn.models.config import CascadeConfig
from rcnn.models.overrides import override
from tests.compiled import BACKWARD, FORWARD
from tests.unit.random_batches import random_images, random_targets

SIZES = [(96, 128), (128, 80)]


@pytest.mark.compile
@pytest.mark.parametrize(
    ("cascade", "box"),
    [
        (CascadeConfig(resample=True, mask_heads="each", average="logits"), ["selection.nms=soft_linear"]),
        (
            CascadeConfig(mask_heads="each"),
            ["selection.nms=soft_gaussian", "loss=focal", "selection.class_agnostic_nms=true"],
        ),
        (CascadeConfig(), ["convs=1", "conv_width=32", "norm=gn", "class_agnostic=false"]),
    ],
)
def test_one_graph_with_the_values_of_eager_mode(cascade: CascadeConfig, box: list[str]) -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    config = model_config("cascade_mask_rcnn_compact")
    small = ["sampling.batch_size=16", "selection.max_detections=10", "score_threshold=0.05", *box]
    rpn = replace(
        config.rpn,
        proposals=replace(config.rpn.proposals, pre_nms=50, pre_nms_train=50, post_nms=20, post_nms_train=20),
    )
    config = replace(config, num_classes=3, cascade=cascade, rpn=rpn, box=override(config.box, small))
    detector = build_detector(config).eval()
    images, targets = random_images(SIZES, seed=1), random_targets(SIZES, [3, 1], num_classes=3, seed=2)

    with torch.no_grad():
        expected = detector.predict(images)
        found = torch.compile(detector.predict, fullgraph=True, backend=FORWARD)(images)
    assert expected.valid.any()
    for field in ("boxes", "scores", "labels", "valid", "masks"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), atol=1e-3, rtol=1e-4)

    def step(run: Any) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        detector.zero_grad(set_to_none=True)
        losses = run(images, targets, torch.tensor(5))
        torch.stack(list(losses.values())).sum().backward()
        return losses, {name: p.grad for name, p in detector.named_parameters() if p.grad is not None}

    losses, gradients = step(detector)
    compiled, found_gradients = step(torch.compile(detector, fullgraph=True, backend=BACKWARD))
    assert set(found_gradients) == set(gradients)
    for name, loss in losses.items():
        torch.testing.assert_close(compiled[name], loss, atol=1e-5, rtol=1e-4)
    for name, gradient in gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(found_gradients[name] / scale, gradient / scale, atol=1e-3, rtol=1e-3)
