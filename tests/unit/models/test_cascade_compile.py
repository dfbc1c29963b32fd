"""The stages after the proposals, with every variant of a cascade: one graph, with the values of eager mode.

The cascades have two stages here. test_zoo.py compiles those of three, test_compile.py whole detectors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from rcnn.models import build_detector, model_config
from rcnn.models.config import CascadeConfig
from rcnn.models.overrides import override
from rcnn.structures import Detections, Proposals
from tests.compiled import BACKWARD, FORWARD
from tests.known_features import leaves
from tests.narrow import present
from tests.unit.random_batches import random_images, random_targets

SIZES = [(96, 128), (128, 80)]
TWO_STAGES = CascadeConfig(
    ious=(0.5, 0.6), loss_weights=(1.0, 0.5), delta_weights=((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0))
)


@pytest.mark.compile
@pytest.mark.parametrize(
    ("cascade", "box"),
    [
        (
            replace(TWO_STAGES, resample=True, mask_heads="each", average="logits"),
            ["selection.nms=soft_linear", "loss=focal", "selection.class_agnostic_nms=true"],
        ),
        (
            TWO_STAGES,
            ["selection.nms=soft_gaussian", "convs=1", "conv_width=32", "norm=gn", "class_agnostic=false"],
        ),
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

    maps = leaves(detector, images)

    def prediction(maps: dict[str, Tensor], proposals: Proposals) -> Detections:
        detections = present(detector.box_head).predict(maps, proposals, images)
        return present(detector.mask_head).predict(maps, detections, images)

    with torch.no_grad():
        proposals = detector.rpn.predict(maps, images)
        expected = prediction(maps, proposals)
        found = torch.compile(prediction, fullgraph=True, backend=FORWARD)(maps, proposals)
    assert expected.valid.any()
    for field in ("boxes", "scores", "labels", "valid", "masks"):
        torch.testing.assert_close(getattr(found, field), getattr(expected, field), atol=1e-3, rtol=1e-4)

    with torch.no_grad():
        proposals, _ = detector.rpn.losses(maps, images, targets, torch.tensor(5))

    def second_stage(maps: dict[str, Tensor], proposals: Proposals, seed: Tensor) -> dict[str, Tensor]:
        regions, losses = present(detector.box_head).losses(maps, proposals, images, targets, seed)
        return losses | present(detector.mask_head).losses(maps, regions, images, targets, seed)

    def step(run: Callable[..., dict[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        detector.zero_grad(set_to_none=True)
        for value in maps.values():
            value.grad = None
        losses = run(maps, proposals, torch.tensor(5))
        torch.stack(list(losses.values())).sum().backward()
        return losses, {n: p.grad for n, p in (*detector.named_parameters(), *maps.items()) if p.grad is not None}

    losses, gradients = step(second_stage)
    compiled, found_gradients = step(torch.compile(second_stage, fullgraph=True, backend=BACKWARD))
    assert set(found_gradients) == set(gradients)
    assert {"p2", "p3", "p4", "p5"} < set(gradients)
    for name, loss in losses.items():
        torch.testing.assert_close(compiled[name], loss, atol=1e-5, rtol=1e-4)
    for name, gradient in gradients.items():
        scale = gradient.abs().max().clamp(min=1e-6)
        torch.testing.assert_close(found_gradients[name] / scale, gradient / scale, atol=1e-3, rtol=1e-3)
