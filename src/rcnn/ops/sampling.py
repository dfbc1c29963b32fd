"""Sampling of the boxes for a loss, with randomness as an argument.

Letters: B images, N boxes per image, S sampled boxes, M the most positives among them.
"""

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
    value, first_row = seed.unbind() if seed.ndim else (seed, 0)
    state = _mix(_mix((value & _MASK) ^ (stream & _MASK)) ^ ((value >> 32) & _MASK))
    row = torch.arange(rows, device=seed.device)[:, None] + first_row  # (B, 1)
    column = torch.arange(columns, device=seed.device)  # (N,)
    row_high = _mix((_times(row, 0x9E3779B9) + state) & _MASK)  # (B, 1)
    row_low = _mix(row_high ^ 0x5BD1E995)
    high = _mix((_times(column, 0x9E3779B9) + row_high) & _MASK)  # (B, N)
    low = _mix((_times(column, 0x85EBCA6B) + row_low) & _MASK)
    return (high << 31) | (low >> 1)


def sample(labels: Tensor, keys: Tensor, size: int, max_positives: int) -> tuple[Tensor, Tensor, Tensor]:
    """A sample of up to `size` boxes per image: up to `max_positives` positives, then negatives.

    As in Detectron2 and torchvision, negatives replace missing positives; missing negatives are not replaced.

    Args:
        labels: (B, N) int64: 1 positive, 0 negative, -1 ignored.
        keys: (B, N) int64 >= 0 from `random_keys`; the boxes with the lowest keys are sampled.
        size: number of boxes to sample per image.
        max_positives: upper limit of positives per image.

    Returns:
        index: (B, S) int64 into N, S = min(size, N); the positives come first. 0 where not valid.
        positive: (B, S) bool.
        valid: (B, S) bool, a prefix of each row.
    """
    count = labels.shape[1]
    sample_size, most_positives = min(size, count), min(max_positives, count)
    never = torch.iinfo(torch.int64).max
    positives = torch.where(labels == 1, keys, never).topk(most_positives, largest=False)[1]  # (B, M)
    negatives = torch.where(labels == 0, keys, never).topk(sample_size, largest=False)[1]  # (B, S)
    num_positives = (labels == 1).sum(1, keepdim=True).clamp(max=most_positives)  # (B, 1)
    num_sampled = (num_positives + (labels == 0).sum(1, keepdim=True)).clamp(max=sample_size)  # (B, 1)
    position = torch.arange(sample_size, device=labels.device)[None]  # (1, S)
    positive, valid = position < num_positives, position < num_sampled  # (B, S)
    # Example: one positive, box 7; the negatives with the lowest keys are 3, 0, 5, 8; M = 2, S = 4.
    #   ranked    7  *  3  0  5  8    M positives, then S negatives; *: any box, because there is no second positive
    #   position  0  1  2  3
    #   rank      0  2  3  4          a negative's number among the negatives, position - num_positives, plus M
    #   index     7  3  0  5
    ranked = torch.cat([positives, negatives], 1)  # (B, M + S)
    rank = torch.where(positive, position, (position - num_positives + most_positives).clamp(min=0))  # (B, S)
    return torch.where(valid, ranked.gather(1, rank), 0), positive, valid
