"""Processes that read different data are refused."""

from __future__ import annotations

from typing import Any

import pytest
from typing_extensions import override

from rcnn.runtime.processes import Processes
from rcnn.training.identity import require_same_data

OWN = {"train": {"images": 2, "objects": 4, "sha256": "own"}}


class Second(Processes):
    """A process; the first one has one image less."""

    @override
    def share(self, value: Any) -> Any:
        return {"train": {"images": 1, "objects": 4, "sha256": "other"}}


class SameNumbers(Processes):
    """A process; the first one has other annotations."""

    @override
    def share(self, value: Any) -> Any:
        return {"train": {"images": 2, "objects": 4, "sha256": "other"}}


class WithValidation(Processes):
    """A process; the first one also has a validation set."""

    @override
    def share(self, value: Any) -> Any:
        return OWN | {"val": OWN["train"]}


def test_all_processes_need_the_same_splits() -> None:
    with pytest.raises(ValueError, match=r"process 1 has the splits train, but process 0 has train, val\. Copy"):
        require_same_data(OWN, WithValidation(rank=1, count=2))


def test_all_processes_need_the_same_data() -> None:
    require_same_data(OWN, Processes(rank=1, count=1))
    message = "process 1 reads 2 images and 4 objects of split train, but process 0 reads 1 image and 4 objects. Copy"
    with pytest.raises(ValueError, match=message):
        require_same_data(OWN, Second(rank=1, count=2))
    message = "processes 0 and 1 read 2 images and 4 objects of split train, but their annotations differ. Copy"
    with pytest.raises(ValueError, match=message):
        require_same_data(OWN, SameNumbers(rank=1, count=2))
