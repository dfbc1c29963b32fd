"""Files of other systems: recognised by their names, their settings kept or refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rcnn.models import DetectorConfig, build_detector, model_config
from rcnn.models.overrides import apply_overrides
from rcnn.weights.convert import convert
from rcnn.weights.detectron2 import from_detectron2, to_detectron2
from rcnn.weights.torchvision import from_torchvision, to_torchvision


def blank(config: DetectorConfig) -> dict[str, Tensor]:
    """Tensors of the right names and shapes that take no memory."""
    with torch.device("meta"):
        state = build_detector(config).state_dict()
    return {name: torch.zeros((), dtype=value.dtype).expand(value.shape) for name, value in state.items()}


ZOO = [
    f"{kind}_rcnn_r{depth}_{neck}_caffe" for kind in ("faster", "mask") for depth in (50, 101) for neck in ("c4", "fpn")
]


@pytest.mark.parametrize("name", ZOO)
def test_detectron2_without_settings_is_taken_for_its_zoo(name: str) -> None:
    config = model_config(name)
    theirs = to_detectron2(blank(config), config)
    assert "proposal_generator.rpn_head.conv.weight" in theirs
    extra = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(3, 4),
    }
    given = from_detectron2({**theirs, **extra})
    assert given.config == config
    assert set(given.state) == set(blank(config))
    assert given.classes[:2] == ("person", "bicycle")
    assert "so those of Detectron2's zoo" in given.report


def settings(folder: Path, text: str, name: str = "c.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


C4 = """
MODEL: {MASK_ON: true, ROI_HEADS: {NUM_CLASSES: 3}, RESNETS: {STRIDE_IN_1X1: false}}
SOLVER: {BASE_LR: 0.01}
"""


def c4_state() -> dict[str, Tensor]:
    config = apply_overrides(model_config("mask_rcnn_r50_c4_caffe"), ["num_classes=3"])
    return to_detectron2(blank(config), config)


HONOURED = """
num_classes=3 backbone.stride_in_1x1=false backbone.frozen_stages=0
input.min_size=480 input.max_size=900 input.channel_order=rgb input.pixel_mean=[1,2,3] input.pixel_std=[4,5,6]
rpn.sizes=[[16,32,64,128,256]] rpn.ratios=[0.4,1.0,2.5] rpn.min_size=4 rpn.nms_iou=0.61 rpn.negative_iou=0.2
rpn.positive_iou=0.6 rpn.batch_size=31 rpn.positive_fraction=0.4 rpn.pre_nms=101 rpn.post_nms=102
rpn.pre_nms_train=103 rpn.post_nms_train=104 rpn.smooth_l1_beta=0.25 box.score_threshold=0.3 box.nms_iou=0.45
box.positive_iou=0.55 box.batch_size=33 box.positive_fraction=0.2 box.sampling_ratio=2 box.aligned=false
box.delta_weights=[1,2,3,4] box.smooth_l1_beta=0.5 box.max_detections=7 mask.sampling_ratio=2 mask.aligned=false
mask.target=bitmap
"""


def test_every_setting_of_a_detectron2_yaml_is_honoured(tmp_path: Path) -> None:
    settings(tmp_path, C4, "base.yaml")
    file = settings(
        tmp_path,
        """
_BASE_: base.yaml
INPUT: {MIN_SIZE_TEST: 480, MAX_SIZE_TEST: 900, FORMAT: RGB, MASK_FORMAT: bitmask}
TEST: {DETECTIONS_PER_IMAGE: 7, EVAL_PERIOD: 500}
MODEL:
  PIXEL_MEAN: [1, 2, 3]
  PIXEL_STD: "(4.0, 5.0, 6.0)"
  BACKBONE: {FREEZE_AT: 0}
  ANCHOR_GENERATOR: {SIZES: [[16, 32, 64, 128, 256]], ASPECT_RATIOS: [[0.4, 1.0, 2.5]]}
  PROPOSAL_GENERATOR: {MIN_SIZE: 4}
  RPN: {NMS_THRESH: 0.61, IOU_THRESHOLDS: [0.2, 0.6], BATCH_SIZE_PER_IMAGE: 31, POSITIVE_FRACTION: 0.4,
        PRE_NMS_TOPK_TEST: 101, POST_NMS_TOPK_TEST: 102, PRE_NMS_TOPK_TRAIN: 103, POST_NMS_TOPK_TRAIN: 104,
        SMOOTH_L1_BETA: 0.25}
  ROI_HEADS: {SCORE_THRESH_TEST: 0.3, NMS_THRESH_TEST: 0.45, IOU_THRESHOLDS: [0.55], BATCH_SIZE_PER_IMAGE: 33,
              POSITIVE_FRACTION: 0.2}
  ROI_BOX_HEAD: {POOLER_SAMPLING_RATIO: 2, POOLER_TYPE: ROIAlign, BBOX_REG_WEIGHTS: [1, 2, 3, 4], SMOOTH_L1_BETA: 0.5}
""",
    )
    given = from_detectron2(c4_state(), file)
    wanted = apply_overrides(
        model_config("mask_rcnn_r50_c4_caffe"),
        HONOURED.split(),
    )
    assert given.config == wanted
    assert given.classes == ("class_0", "class_1", "class_2")
    assert "settings of c.yaml" in given.report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {KEYPOINT_ON: true}", r"MODEL\.KEYPOINT_ON=True is not supported; want False"),
        (
            "MODEL: {ROI_HEADS: {NAME: CascadeROIHeads}}",
            r"NAME='CascadeROIHeads' is not supported; want 'Res5ROIHeads'",
        ),
        ("MODEL: {ANCHOR_GENERATOR: {OFFSET: 0.5}}", r"MODEL\.ANCHOR_GENERATOR\.OFFSET=0\.5 is not supported"),
        ("MODEL: {RESNETS: {NORM: GN}}", r"MODEL\.RESNETS\.NORM='GN' is not supported"),
        ("MODEL: {ROI_BOX_HEAD: {POOLER_TYPE: ROIPool}}", r"POOLER_TYPE='ROIPool' is not supported"),
        ("TEST: {AUG: {ENABLED: true}}", r"TEST\.AUG\.ENABLED=True is not supported"),
        (
            "MODEL: {RPN: {NMS_THRESHOLD: 0.5}}",
            r"MODEL\.RPN\.NMS_THRESHOLD=0\.5 is no setting of Detectron2 that we know",
        ),
        (
            "MODEL: {RPN: {NMS_THRESH: high}}",
            r"MODEL\.RPN\.NMS_THRESH='high' is of the wrong kind; want one such as 0\.7",
        ),
        ("MODEL: {RPN: {PRE_NMS_TOPK_TEST: 1.5}}", "is of the wrong kind"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[8], [16]]}}", r"want sizes for one or 1 levels"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: !!python/object/apply:os.getcwd []}}", "is not plain YAML"),
        ("INPUT: {MIN_SIZE_TEST: 0}", "images as they are"),
        ("MODEL: {PIXEL_MEAN: [1, 2]}", r"MODEL\.PIXEL_MEAN=\[1, 2\]: want 3 numbers"),
        ("_BASE_: gone.yaml", r"builds on gone\.yaml, and .*gone\.yaml does not exist"),
        ("_BASE_: c.yaml", "names itself"),
        ("just words", "holds no settings"),
    ],
)
def test_a_setting_that_would_change_results_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = settings(tmp_path, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        from_detectron2(c4_state(), file)
    with pytest.raises((ValueError, FileNotFoundError), match=r"c\.yaml"):
        from_detectron2(c4_state(), file)


def test_settings_of_another_network_are_named_by_its_tensors(tmp_path: Path) -> None:
    file = settings(tmp_path, "MODEL: {ROI_HEADS: {NUM_CLASSES: 5}}")
    with pytest.raises(
        ValueError, match=r"without a place: mask_head.*of another shape: box_head.scores.weight \(4, 2048\)"
    ):
        from_detectron2(c4_state(), file, "model_final.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("roi_heads.box_predictor.0.cls_score.weight", "a cascade"),
        ("roi_heads.keypoint_head.conv_fcn1.weight", "a keypoint head"),
        ("sem_seg_head.predictor.weight", "a panoptic or semantic head"),
        ("backbone.res3.0.conv2_offset.weight", "deformable"),
        ("backbone.something.weight", r"without a counterpart here: backbone\.something\.weight"),
    ],
)
def test_networks_of_detectron2_that_we_do_not_have(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_detectron2({**c4_state(), name: torch.zeros(1)})


@pytest.mark.parametrize("name", ["faster_rcnn_r50_fpn", "mask_rcnn_r50_fpn", "mask_rcnn_r101_fpn"])
def test_torchvision_state_dicts_and_their_older_names(name: str) -> None:
    config = apply_overrides(model_config(name), ["num_classes=90"])
    theirs = to_torchvision(blank(config), config)
    older = {
        key.replace("_blocks.0.0.", "_blocks.0.")
        .replace("conv.0.0.", "conv.")
        .replace("mask_head.0.0.", "mask_head.mask_fcn1."): value
        for key, value in theirs.items()
    }
    assert set(older) != set(theirs)
    for state in (theirs, older):
        given = from_torchvision(state)
        assert set(given.state) == set(blank(config))
        assert given.config.name == name
        assert given.config.rpn.rounded_anchors
    assert (given.classes[0], given.classes[11], given.classes[89]) == ("person", "N/A 12", "toothbrush")
    assert len(set(given.classes)) == 90
    assert given.config.backbone.norm_eps == 1e-5
    published = from_torchvision(theirs, "downloads/maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth")
    assert published.config.backbone.norm_eps == 0


def test_torchvision_networks_that_we_do_not_have() -> None:
    config = model_config("mask_rcnn_r50_fpn")
    theirs = to_torchvision(blank(config), config)
    with pytest.raises(ValueError, match="has a keypoint head"):
        from_torchvision({**theirs, "roi_heads.keypoint_head.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"tensors of another: rpn\.head\.conv\.1\.0\.weight"):
        from_torchvision({**theirs, "rpn.head.conv.1.0.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="torchvision has no mask_rcnn_r50_c4"):
        to_torchvision({}, model_config("mask_rcnn_r50_c4"))


def test_a_file_of_no_known_system_lists_its_first_names(tmp_path: Path) -> None:
    def written(content: Any, name: str = "a.pkl") -> Path:
        (tmp_path / name).write_bytes(pickle.dumps(content))
        return tmp_path / name

    names = {f"layer{i}.weight": np.zeros(2) for i in range(9)}
    with pytest.raises(ValueError, match=r"layer0\.weight, .*layer5\.weight and 3 more\. Known: D2Go"):
        convert(written({"model": names}))
    with pytest.raises(ValueError, match=r"Detectron's \(Caffe2\)"):
        convert(written({"blobs": {"conv1_w": np.zeros(2)}, "cfg": "MODEL: {}"}))
    with pytest.raises(ValueError, match=r"holds no named tensors: found epoch"):
        convert(written({"epoch": 3}))
    with pytest.raises(ValueError, match=r"holds no named tensors: found int"):
        convert(written(3))
    torch.save({"model": {"backbone.body.trunk0.fbnetv2_0_0.conv.weight": torch.zeros(1)}}, tmp_path / "d.pth")
    with pytest.raises(ValueError, match="files of D2Go come without settings"):
        convert(tmp_path / "d.pth", settings(tmp_path, "{}"))
