"""Errors of a conversion name the file once, also if the name of the file occurs in them by chance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rcnn.models import model_config
from rcnn.models.config import DetectorConfig
from rcnn.weights.readers.state_dict import Found
from rcnn.weights.readers.stored import Damaged, LazyState, Stored
from rcnn.weights.systems.renaming import Placed
from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.system import Plan, System


def read(found: Found, settings: SettingsSource) -> Plan:
    return Plan(config=model_config("mask_rcnn_compact"), placed=Placed({"w": "rpn.deltas.weight"}), tensor=wrong)


def wrong(name: str, value: Tensor, config: DetectorConfig) -> Tensor:
    raise ValueError(f"{name} has 3 rows")


def damaged() -> Tensor:
    raise Damaged("it ends early")


SYSTEM = System(name="X", files=".pth", recognises=bool, read=read)


def test_the_name_of_the_file_is_added_if_the_message_has_it_by_chance() -> None:
    with pytest.raises(ValueError, match=r"^rpn: rpn\.deltas\.weight has 3 rows$"):
        SYSTEM.convert(Found(state={"w": torch.zeros(3)}, source="rpn"))


def test_the_name_of_the_file_is_not_added_twice() -> None:
    state = LazyState({"w": Stored((3,), "f4", 12, damaged)}, "a.pth")
    with pytest.raises(ValueError, match=r"^a\.pth: w cannot be read \(it ends early\): copy the file again$"):
        SYSTEM.convert(Found(state=state, source="a.pth"))
    with pytest.raises(ValueError, match=r"^a\.pth looks like a file of X, but has no tensor 'w'$"):
        SYSTEM.convert(Found(state={}, source="a.pth"))
