"""tensorpack's settings (`KEY=VALUE`, its `--config`), read as data and never evaluated.

Its checkpoints carry none of them; whoever has the command line of the training has those that differ from the
defaults, which are those of its last version.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from rcnn.weights.systems.settings import SettingsSource
from rcnn.weights.systems.settings import read_settings as parse

# what says what a detector computes; the rest of tensorpack's tree follows
DEFAULTS: dict[str, Any] = {
    "MODE_MASK": True, "MODE_FPN": True,
    "BACKBONE.RESNET_NUM_BLOCKS": [3, 4, 6, 3], "BACKBONE.FREEZE_AFFINE": False, "BACKBONE.NORM": "FreezeBN",
    "BACKBONE.FREEZE_AT": 2, "BACKBONE.TF_PAD_MODE": False, "BACKBONE.STRIDE_1X1": False,
    "PREPROC.TEST_SHORT_EDGE_SIZE": 800, "PREPROC.MAX_SIZE": 1333,
    "PREPROC.PIXEL_MEAN": [123.675, 116.28, 103.53], "PREPROC.PIXEL_STD": [58.395, 57.12, 57.375],
    "RPN.ANCHOR_STRIDE": 16, "RPN.ANCHOR_SIZES": (32, 64, 128, 256, 512), "RPN.ANCHOR_RATIOS": (0.5, 1.0, 2.0),
    "RPN.POSITIVE_ANCHOR_THRESH": 0.7, "RPN.NEGATIVE_ANCHOR_THRESH": 0.3, "RPN.FG_RATIO": 0.5, "RPN.BATCH_PER_IM": 256,
    "RPN.MIN_SIZE": 0, "RPN.PROPOSAL_NMS_THRESH": 0.7, "RPN.CROWD_OVERLAP_THRESH": 9.99, "RPN.HEAD_DIM": 1024,
    "RPN.TRAIN_PRE_NMS_TOPK": 12000, "RPN.TRAIN_POST_NMS_TOPK": 2000,
    "RPN.TEST_PRE_NMS_TOPK": 6000, "RPN.TEST_POST_NMS_TOPK": 1000,
    "RPN.TRAIN_PER_LEVEL_NMS_TOPK": 2000, "RPN.TEST_PER_LEVEL_NMS_TOPK": 1000,
    "FRCNN.BATCH_PER_IM": 512, "FRCNN.BBOX_REG_WEIGHTS": [10.0, 10.0, 5.0, 5.0],
    "FRCNN.FG_THRESH": 0.5, "FRCNN.FG_RATIO": 0.25,
    "FPN.ANCHOR_STRIDES": (4, 8, 16, 32, 64), "FPN.PROPOSAL_MODE": "Level", "FPN.NUM_CHANNEL": 256,
    "FPN.NORM": "None", "FPN.FRCNN_HEAD_FUNC": "fastrcnn_2fc_head",
    "FPN.FRCNN_CONV_HEAD_DIM": 256, "FPN.FRCNN_FC_HEAD_DIM": 1024,
    "FPN.MRCNN_HEAD_FUNC": "maskrcnn_up4conv_head", "FPN.CASCADE": False,
    "MRCNN.HEAD_DIM": 256, "MRCNN.ACCURATE_PASTE": True,
    "CASCADE.IOUS": [0.5, 0.6, 0.7],
    "CASCADE.BBOX_REG_WEIGHTS": [[10.0, 10.0, 5.0, 5.0], [20.0, 20.0, 10.0, 10.0], [30.0, 30.0, 15.0, 15.0]],
    "TEST.FRCNN_NMS_THRESH": 0.5, "TEST.RESULT_SCORE_THRESH": 0.05, "TEST.RESULTS_PER_IM": 100,
    "DATA.CLASS_NAMES": [],
}  # fmt: skip
# how and on what it was trained: known, and of no use to the detector
OF_THE_RUN = re.compile(
    r"TRAINER|DATA\.(BASEDIR|TRAIN|VAL|NUM_CATEGORY|ABSOLUTE_COORD|FILTER_EMPTY_ANNOTATIONS|NUM_WORKERS)"
    r"|BACKBONE\.WEIGHTS|TRAIN\.[A-Z_]+|PREPROC\.TRAIN_SHORT_EDGE_SIZE|TEST\.RESULT_SCORE_THRESH_VIS"
    r"|RPN\.NUM_ANCHOR|FPN\.RESOLUTION_REQUIREMENT"
)


class Settings(NamedTuple):
    """tensorpack's settings as far as a detector has them."""

    get: dict[str, Any]  # every key of DEFAULTS
    given: frozenset[str]  # those that were said
    of_the_run: tuple[str, ...]  # keys that were said and play no part here
    unknown: tuple[str, ...]  # keys that tensorpack does not have


def read_settings(given: SettingsSource) -> Settings:
    """tensorpack's settings of a file or of KEY=VALUE text; None: its defaults.

    Also read is the tree that tensorpack logs when it starts (`{'BACKBONE': {...}}`). Raises ValueError for what cannot
    be read, or for a value of the wrong type.
    """
    found = {} if given is None else parse(given)
    of_the_run = tuple(key for key in found if key not in DEFAULTS and OF_THE_RUN.fullmatch(key))
    unknown = tuple(key for key in found if key not in DEFAULTS and key not in of_the_run)
    known = {key: _checked(key, found[key]) for key in found.keys() & DEFAULTS.keys()}
    return Settings(DEFAULTS | known, frozenset(known), of_the_run, unknown)


def notes(settings: Settings) -> tuple[str, ...]:
    """A sentence about settings that are not used."""
    said = []
    if settings.of_the_run:
        said.append(f"training settings, not used: {', '.join(settings.of_the_run)}")
    if settings.unknown:
        said.append(f"unknown settings, ignored: {', '.join(settings.unknown)}")
    return tuple(said)


def _checked(key: str, value: Any) -> Any:
    """`value` if it has the type of `key`; tuples and lists are the same."""
    default = DEFAULTS[key]
    if isinstance(default, bool):
        fits = isinstance(value, bool)
    elif isinstance(default, int | float):
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif isinstance(default, str):
        fits, value = isinstance(value, str) or value is None, str(value)
    else:
        fits = isinstance(value, list | tuple) and all(
            isinstance(item, int | float | str | list | tuple) and not isinstance(item, bool) for item in value
        )
    if not fits:
        raise ValueError(f"{key}={value!r} has the wrong type; expected a value such as {default!r}")
    return value
