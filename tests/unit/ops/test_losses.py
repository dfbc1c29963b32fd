"""Smooth L1 against PyTorch's, focal loss against its formula; values and gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rcnn.ops.losses import focal_loss, smooth_l1


@pytest.mark.parametrize("beta", [0.0, 1 / 9, 1.0])
def test_values_and_gradients_equal_pytorchs(beta: float) -> None:
    target = torch.zeros(101)
    ours = torch.linspace(-2, 2, 101).requires_grad_()  # the middle one is exactly right, others on both sides of beta
    theirs = ours.detach().clone().requires_grad_()
    loss, expected = smooth_l1(ours, target, beta), F.smooth_l1_loss(theirs, target, reduction="none", beta=beta)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert ours.grad is not None
    assert ours.grad.isfinite().all()


def test_of_nothing_is_nothing() -> None:
    assert smooth_l1(torch.zeros(0, 4), torch.zeros(0, 4), 0.1).sum().item() == 0


def test_half_precision_is_subtracted_in_float32() -> None:
    value, target = torch.tensor([1.0078125]), torch.tensor([1.0])
    assert smooth_l1(value.bfloat16(), target.bfloat16(), 0.0).dtype == torch.float32
    torch.testing.assert_close(smooth_l1(value.bfloat16(), target, 0.0), value - target)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_cross_entropy_times_a_power_of_what_is_missing(gamma: float) -> None:
    torch.manual_seed(0)
    scores, labels = 3 * torch.randn(50, 4, dtype=torch.float64), torch.randint(0, 4, (50,))
    ours = scores.float().requires_grad_()
    theirs = scores.clone().requires_grad_()
    p = theirs.softmax(1)[torch.arange(50), labels]
    expected = -((1 - p) ** gamma) * p.log()
    loss = focal_loss(ours, labels, gamma)
    torch.testing.assert_close(loss.double(), expected, atol=1e-5, rtol=1e-4)
    loss.sum().backward()
    expected.sum().backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad.double(), theirs.grad, atol=1e-5, rtol=1e-3)
    if gamma == 0:
        torch.testing.assert_close(loss, F.cross_entropy(ours, labels, reduction="none"))


def test_focal_loss_of_what_is_certain_has_a_gradient_of_nothing() -> None:
    scores = torch.tensor([[1000.0, 0.0], [0.0, 1000.0]], requires_grad=True)
    loss = focal_loss(scores, torch.tensor([0, 0]), 0.5)
    loss.sum().backward()
    assert loss.tolist() == [0, 1000]
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[0].any()
