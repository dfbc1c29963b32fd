"""Smooth L1 against PyTorch's, values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rcnn.ops.losses import smooth_l1


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_values_and_gradients_equal_pytorchs(beta: float) -> None:
    target = torch.zeros(101)
    ours = torch.linspace(-2, 2, 101).requires_grad_()  # the middle one is exactly right, others on both sides of beta
    theirs = ours.detach().clone().requires_grad_()
    loss, wanted = smooth_l1(ours, target, beta), F.smooth_l1_loss(theirs, target, reduction="none", beta=beta)
    torch.testing.assert_close(loss, wanted)
    loss.sum().backward()
    wanted.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad is not None
    assert ours.grad.isfinite().all()


def test_of_nothing_is_nothing() -> None:
    assert smooth_l1(torch.zeros(0, 4), torch.zeros(0, 4), 0.1).sum().item() == 0


def test_half_precision_is_subtracted_in_float32() -> None:
    value, target = torch.tensor([1.0078125]), torch.tensor([1.0])
    assert smooth_l1(value.bfloat16(), target.bfloat16(), 0.0).dtype == torch.float32
    torch.testing.assert_close(smooth_l1(value.bfloat16(), target, 0.0), value - target)
