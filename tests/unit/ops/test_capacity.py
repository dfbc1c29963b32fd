"""How much of a capacity is in use; all of it where values cannot be read."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from rcnn.ops.capacity import valid_prefix
from tests.compiled import FORWARD
from tests.narrow import instance


def test_the_last_place_in_use_of_any_row() -> None:
    valid = torch.tensor([[1, 1, 0, 0, 0], [1, 0, 1, 0, 0]], dtype=torch.bool)
    assert valid_prefix(valid) == 3
    assert valid_prefix(valid[:1]) == 2
    assert valid_prefix(torch.ones(2, 5, dtype=torch.bool)) == 5


def test_an_unused_batch_keeps_one_place_and_an_empty_one_none() -> None:
    assert valid_prefix(torch.zeros(2, 5, dtype=torch.bool)) == 1
    assert valid_prefix(torch.zeros(2, 0, dtype=torch.bool)) == 0
    assert valid_prefix(torch.zeros(0, 5, dtype=torch.bool)) == 5


@pytest.mark.compile
@pytest.mark.filterwarnings("ignore:.torch.jit.trace. is deprecated:FutureWarning")
def test_the_whole_capacity_where_values_cannot_be_read() -> None:
    with FakeTensorMode():
        assert valid_prefix(torch.zeros(2, 5, dtype=torch.bool)) == 5
    assert valid_prefix(torch.zeros(2, 5, dtype=torch.bool, device="meta")) == 5

    def used(valid: torch.Tensor) -> torch.Tensor:
        return valid.float().sum() * valid_prefix(valid)

    traced = torch.jit.trace(used, torch.tensor([[True, False, False]]), check_trace=False)
    assert instance(traced, torch.jit.ScriptFunction)(torch.tensor([[True, True, True]])).item() == 9
    compiled = torch.compile(used, fullgraph=True, backend=FORWARD)
    assert compiled(torch.tensor([[True, False, False]])).item() == 3
