"""Offsets of boxes: against torchvision's BoxCoder, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder

from rcnn.ops.deltas import MAX_LOG_SCALE, decode_deltas, encode_deltas
from tests.unit.random_boxes import random_boxes

Weights = tuple[float, float, float, float]
WEIGHTS: list[Weights] = [(1.0, 1.0, 1.0, 1.0), (10.0, 10.0, 5.0, 5.0)]


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("n", [0, 1, 200])
def test_encoding_and_decoding_equal_torchvisions(n: int, weights: Weights) -> None:
    boxes, anchors = random_boxes(n, seed=0), random_boxes(n, seed=1)
    coder = BoxCoder(weights)
    deltas = encode_deltas(boxes, anchors, weights)
    torch.testing.assert_close(deltas, coder.encode_single(boxes, anchors), rtol=1e-5, atol=1e-5)
    noise = torch.randn(n, 4) * 3  # some beyond the clamp
    expected = coder.decode_single(noise, anchors)
    torch.testing.assert_close(decode_deltas(noise, anchors, weights), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_decoding_undoes_encoding(weights: Weights) -> None:
    boxes, anchors = random_boxes(2, 50, seed=2), random_boxes(2, 50, seed=3)
    back = decode_deltas(encode_deltas(boxes, anchors, weights), anchors, weights)
    torch.testing.assert_close(back, boxes, rtol=1e-5, atol=1e-3)


def test_by_hand() -> None:
    anchor = torch.tensor([[10.0, 20.0, 30.0, 60.0]])  # centre (20, 40), 20 x 40
    box = torch.tensor([[20.0, 40.0, 60.0, 60.0]])  # centre (40, 50), 40 x 20
    expected = torch.tensor([[10.0, 2.5, 5 * math.log(2), 5 * math.log(0.5)]])
    torch.testing.assert_close(encode_deltas(box, anchor, (10, 10, 5, 5)), expected)


def test_scales_are_clipped_above_only() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    huge = decode_deltas(torch.tensor([[0.0, 0.0, 1e6, -1e6]]), anchor, (1, 1, 1, 1))
    torch.testing.assert_close(huge, torch.tensor([[8 - 500.0, 8.0, 8 + 500.0, 8.0]]))
    assert math.isclose(MAX_LOG_SCALE, math.log(1000 / 16))


def test_shapes_broadcast_and_half_precision_is_decoded_in_float32() -> None:
    anchors, deltas = random_boxes(7, seed=4, extent=1000), (torch.randn(2, 7, 4) * 0.1).bfloat16()
    together = decode_deltas(deltas, anchors, (1, 1, 1, 1))
    assert together.dtype == torch.float32
    for image in range(2):
        torch.testing.assert_close(together[image], decode_deltas(deltas[image].float(), anchors, (1, 1, 1, 1)))
    classes = decode_deltas(deltas.float()[:, :, None].expand(-1, -1, 3, -1), anchors[:, None], (1, 1, 1, 1))
    torch.testing.assert_close(classes[:, :, 2], together)  # (B, R, K, 4) with one anchor for all classes
