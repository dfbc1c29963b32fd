"""The warning of `rcnn predict` about a --score that the model does not reach."""

from __future__ import annotations

import pytest

from rcnn.cli.predict import _lowest_score
from rcnn.models import model_config
from rcnn.models.overrides import override


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("mask_rcnn_compact", "box.score_threshold"),
        ("fcis_compact", "fcis.score_threshold"),
        ("rpn_r50_fpn", "rpn.proposals.score_threshold"),
    ],
)
def test_the_threshold_of_the_model_is_named(model: str, key: str) -> None:
    config = override(model_config(model), [f"{key}=0.25"])
    assert _lowest_score(config) == (key, 0.25)
