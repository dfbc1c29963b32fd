"""Random keys and sampling: their distribution, reproducibility, and the rule against torchvision's sampler."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from rcnn.models.config.parts import SamplingConfig
from rcnn.ops.sampling import random_keys, sample

SEED = torch.tensor(17)


def test_the_seed_determines_the_keys() -> None:
    keys = random_keys(SEED, (4, 1000), stream=0)
    assert torch.equal(keys, random_keys(SEED.clone(), (4, 1000), stream=0))
    others = [
        random_keys(torch.tensor(18), (4, 1000), stream=0),
        random_keys(torch.tensor(17 + (1 << 32)), (4, 1000), stream=0),
        random_keys(torch.tensor(-17), (4, 1000), stream=0),
        random_keys(SEED, (4, 1000), stream=1),
        random_keys(SEED, (4, 1000), stream=2),
    ]
    for number, other in enumerate(others):
        assert not (keys == other).any(), number
        assert not (keys.argsort(1) == other.argsort(1)).all(1).any(), number


def test_keys_do_not_depend_on_their_number() -> None:
    keys = random_keys(SEED, (4, 1000), stream=0)
    assert torch.equal(random_keys(SEED, (2, 300), stream=0), keys[:2, :300])
    assert random_keys(SEED, (3, 0), stream=0).shape == (3, 0)


def test_known_keys() -> None:
    """The keys are the same on every machine, so that a run can be reproduced on another."""

    def mix(value: int) -> int:
        value = ((value ^ (value >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        value = ((value ^ (value >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        return value ^ (value >> 16)

    seed, stream = 0x1234_5678_9ABC_DEF0, 5
    keys = random_keys(torch.tensor(seed), (3, 4), stream).tolist()
    state = mix(mix((seed & 0xFFFFFFFF) ^ stream) ^ (seed >> 32))
    for row in range(3):
        high = mix((row * 0x9E3779B9 + state) & 0xFFFFFFFF)
        low = mix(high ^ 0x5BD1E995)
        for column in range(4):
            a = mix((column * 0x9E3779B9 + high) & 0xFFFFFFFF)
            b = mix((column * 0x85EBCA6B + low) & 0xFFFFFFFF)
            assert keys[row][column] == (a << 31) | (b >> 1)


def test_keys_are_uniform_and_unique() -> None:
    keys = random_keys(SEED, (8, 50_000), stream=3)
    assert keys.min() >= 0
    assert len(keys.unique()) == keys.numel()
    share = keys.double() / 2.0**63
    counts = torch.histc(share, bins=64, min=0, max=1)
    expected = keys.numel() / 64
    assert ((counts - expected) ** 2 / expected).sum() < 115  # chi-square of 63 degrees; 1 in 10,000 is larger
    for bit in range(63):
        ones = ((keys >> bit) & 1).double().mean().item()
        assert abs(ones - 0.5) < 4.5 * 0.5 / keys.numel() ** 0.5, bit


def test_rows_seeds_and_streams_are_independent() -> None:
    def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double() / 2.0**63)[0, 1].abs().item()

    keys = random_keys(SEED, (4, 20_000), stream=0)
    pairs = [
        (keys[:2], keys[2:]),
        (keys[:, 1:], keys[:, :-1]),
        (keys, random_keys(SEED + 1, (4, 20_000), stream=0)),
        (keys, random_keys(SEED, (4, 20_000), stream=1)),
    ]
    for number, (a, b) in enumerate(pairs):
        assert correlation(a, b) < 0.02, number


def test_every_place_is_drawn_equally_often() -> None:
    labels = torch.zeros(2000, 20, dtype=torch.int64)
    index, positive, valid = sample(labels, random_keys(SEED, (2000, 20), stream=0), 5, 2)
    assert valid.all()
    assert not positive.any()
    counts = torch.bincount(index.flatten(), minlength=20).double()
    assert ((counts - 500) ** 2 / 500).sum() < 50  # chi-square of 19 degrees; 1 in 10,000 is larger


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(("positives", "negatives"), [(0, 100), (100, 0), (3, 100), (100, 3), (60, 60), (0, 0), (1, 1)])
def test_numbers_drawn_are_those_of_torchvision(positives: int, negatives: int, fraction: float) -> None:
    labels = torch.cat([torch.ones(positives), torch.zeros(negatives), -torch.ones(20)]).long()
    labels = labels[torch.randperm(len(labels))]
    most = SamplingConfig(batch_size=32, positive_fraction=fraction, positive_iou=0.5).max_positives
    [theirs_positive], [theirs_negative] = BalancedPositiveNegativeSampler(32, fraction)([labels])
    index, positive, valid = sample(labels[None], random_keys(SEED, (1, len(labels)), stream=0), 32, most)
    size = min(32, len(labels))
    assert index.shape == positive.shape == valid.shape == (1, size)
    assert positive.sum() == theirs_positive.sum()
    # torchvision counts on at least `size` boxes; where fewer exist than that, so do we draw fewer
    assert valid.sum() == min(size, int(theirs_positive.sum() + theirs_negative.sum()))
    drawn = index[0, valid[0]]
    assert len(drawn.unique()) == len(drawn)
    assert torch.equal(labels[drawn] == 1, positive[0, valid[0]])
    assert (labels[drawn] >= 0).all()
    assert torch.equal(positive, positive.cummin(1)[0])  # first the positives
    assert torch.equal(valid, valid.cummin(1)[0])
    assert (index[~valid] == 0).all()
    assert not positive[~valid].any()


def test_the_lowest_keys_are_drawn() -> None:
    labels = torch.tensor([[1, 0, 1, 0, 1, -1, 0, 0]])
    keys = torch.tensor([[5, 9, 1, 2, 3, 0, 4, 4]])
    index, positive, valid = sample(labels, keys, 4, 2)
    assert index[0, :3].tolist() == [2, 4, 3]
    assert index[0, 3].item() in (6, 7)  # equal keys: either
    assert positive.tolist() == [[True, True, False, False]]
    assert valid.all()


def test_images_with_different_numbers_of_candidates() -> None:
    labels = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0], [-1, -1, -1, -1], [-1, 1, 0, -1]])
    index, positive, valid = sample(labels, torch.arange(4).expand(4, -1), 3, 1)
    assert valid.tolist() == [[1, 0, 0], [1, 1, 1], [0, 0, 0], [1, 1, 0]]
    assert positive.tolist() == [[1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]]
    assert index.tolist() == [[0, 0, 0], [0, 1, 2], [0, 0, 0], [1, 2, 0]]


def test_nothing_to_draw_from() -> None:
    index, positive, valid = sample(torch.zeros(2, 0).long(), random_keys(SEED, (2, 0), 0), 8, 4)
    assert index.shape == positive.shape == valid.shape == (2, 0)
