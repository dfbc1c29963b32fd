"""Sampling of the boxes for a loss, with randomness as an argument."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _times(value: Tensor, factor: int) -> Tensor:
    """The low 32 bits of a product. Factors from 2**31 are reduced by 2**32, so that int64 never overflows."""
    return (value * (factor - (1 << 32) if factor >> 31 else factor)) & _MASK


def _mix(value: Tensor) -> Tensor:
    """A permutation of 32-bit numbers (held in int64) where every bit depends on all others (Wellons' lowbias32)."""
    value = _times(value ^ (value >> 16), 0x7FEB352D)
    value = _times(value ^ (value >> 15), 0x846CA68B)
    return value ^ (value >> 16)


def random_keys(seed: Tensor, shape: Sequence[int], stream: int) -> Tensor:
    """Keys (B, N) int64 in [0, 2**63), uniform and the same on every device, for `sample`.

    Keys are hashes of the seed, the stream and the position; there is no generator state. The same `seed` () int64 and
    `stream` give the same keys. The rows (images) have different keys. Different purposes use different streams. A
    `seed` (2,) is the seed and the number of the first row: a part of a larger batch then gets the same keys as within
    that batch.
    """
    rows, columns = shape
    device = seed.device
    seed, first = seed.unbind() if seed.ndim else (seed, 0)
    state = _mix(_mix((seed & _MASK) ^ (stream & _MASK)) ^ ((seed >> 32) & _MASK))
    row = torch.arange(rows, device=device)[:, None] + first
    column = torch.arange(columns, device=device)
    high = _mix((_times(row, 0x9E3779B9) + state) & _MASK)  # (B, 1)
    low = _mix(high ^ 0x5BD1E995)
    high = _mix((_times(column, 0x9E3779B9) + high) & _MASK)  # (B, N)
    low = _mix((_times(column, 0x85EBCA6B) + low) & _MASK)
    return (high << 31) | (low >> 1)


def sample(labels: Tensor, keys: Tensor, size: int, positive_fraction: float) -> tuple[Tensor, Tensor, Tensor]:
    """A sample of up to `size` boxes per image: positives up to their fraction, then negatives.

    As in Detectron2 and torchvision, negatives replace missing positives; missing negatives are not replaced.

    Args:
        labels: (B, N) int64: 1 positive, 0 negative, -1 ignored.
        keys: (B, N) int64 >= 0 from `random_keys`; the boxes with the lowest keys are sampled.
        size: number of boxes to sample per image.
        positive_fraction: upper limit of positives, as a fraction of `size`.

    Returns:
        index: (B, S) int64 into N, S = min(size, N); the positives come first. 0 where not valid.
        positive: (B, S) bool.
        valid: (B, S) bool, a prefix of each row.
    """
    number = labels.shape[1]
    max_positives = min(int(size * positive_fraction), number)
    size = min(size, number)
    never = torch.iinfo(torch.int64).max
    positives = torch.where(labels == 1, keys, never).topk(max_positives, largest=False)[1]
    negatives = torch.where(labels == 0, keys, never).topk(size, largest=False)[1]  # (B, S)
    count = (labels == 1).sum(1, keepdim=True).clamp(max=max_positives)  # (B, 1)
    total = (count + (labels == 0).sum(1, keepdim=True)).clamp(max=size)
    position = torch.arange(size, device=labels.device)[None]  # (1, S)
    positive, valid = position < count, position < total
    source = torch.cat([positives, negatives], 1)  # (B, P + S)
    index = source.gather(1, torch.where(positive, position, (position - count + max_positives).clamp(min=0)))
    return torch.where(valid, index, 0), positive, valid
