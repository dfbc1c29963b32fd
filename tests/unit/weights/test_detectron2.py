"""Detectron2's files: names of every family both ways, its zoo by tensors and name, settings used or refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rcnn.models import DetectorConfig, model_config
from rcnn.models.config import CascadeConfig, KeypointHeadConfig, PoolerConfig, ResNetConfig
from rcnn.models.overrides import override
from rcnn.weights.systems.detectron2 import system as detectron2
from rcnn.weights.systems.detectron2.config import config_of
from rcnn.weights.systems.detectron2.export import not_expressed, settings_of
from rcnn.weights.systems.detectron2.settings import ONLY, TRAINING, Settings, read_yaml
from rcnn.weights.systems.detectron2.system import RULES, to_detectron2
from rcnn.weights.systems.detectron2.zoo import ZOO, is_zoo_name, zoo_settings
from rcnn.weights.systems.settings import field_of
from tests.unit.blank_states import blank
from tests.unit.weights.state_dicts import convert_state


def numbered(config: DetectorConfig) -> dict[str, Tensor]:
    """The same, each filled with a different number."""
    return {
        name: value if value.dtype == torch.int64 else torch.tensor(float(index)).expand(value.shape)
        for index, (name, value) in enumerate(blank(config).items())
    }


def settings(folder: Path, text: str, name: str = "c.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


# entries whose file says what tensors cannot: another data set's sizes and thresholds, another loss, RoIAlign's first
# form, a trunk trained on other pixels
SAID_BY_NAME_ALONE = ("LVIS", "Cityscapes", "Detectron1", "_gn", "rpn_", "giou")


@pytest.mark.parametrize("entry", sorted(ZOO))
def test_every_entry_of_the_zoo_by_name_and_by_its_tensors(entry: str) -> None:
    config = config_of(zoo_settings(f"{entry}.yaml"), entry)
    ours = blank(config)
    theirs = to_detectron2(ours, config)
    assert detectron2.SYSTEM.recognises(theirs)
    assert {RULES.rename(name) for name in theirs} <= set(ours)
    named = convert_state(detectron2.SYSTEM, theirs, f"{entry}.yaml")
    assert named.config == config
    assert set(named.state) == set(ours)
    assert named.assumed == ()
    assert named.notes == () or "giou" in entry
    assert f"model zoo's {entry}" in named.summary
    guessed = convert_state(detectron2.SYSTEM, theirs)  # the architecture at least
    assert set(guessed.state) == set(ours)
    assert any("stride in the" in sentence for sentence in guessed.assumed)
    assert any("input.max_size=1333" in sentence for sentence in guessed.assumed)
    if not any(word in entry for word in SAID_BY_NAME_ALONE):
        assert guessed.config == config


def test_the_zoo_is_whole() -> None:
    assert len(ZOO) == 54
    jitter = config_of(zoo_settings("new_baselines/mask_rcnn_R_50_FPN_400ep_LSJ.py"), "z")
    assert (jitter.rpn.convs, jitter.box.convs, jitter.box.norm) == (2, 4, "sync_bn")
    config = config_of(zoo_settings("configs/LVISv1-InstanceSegmentation/mask_rcnn_X_101_32x8d_FPN_1x.yaml"), "z")
    assert (config.num_classes, config.box.selection.max_detections, config.box.score_threshold) == (1203, 300, 0.0001)
    assert isinstance(config.backbone, ResNetConfig)
    assert (config.backbone.groups, config.backbone.width_per_group, config.backbone.stride_in_1x1) == (32, 8, False)
    assert config.input.pixel_std == (57.375, 57.12, 58.395)
    assert zoo_settings("mask_rcnn_R_50_FPN_3x.yaml") == ZOO["COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "one-stage"),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_3x.yaml", "panoptic"),
        ("Misc/panoptic_fpn_R_101_dconv_cascade_gn_3x.yaml", "panoptic"),
        ("Misc/cascade_mask_rcnn_X_152_32x8d_FPN_IN5k_gn_dconv.yaml", "deformable"),
        ("Misc/semantic_R_50_FPN_1x.yaml", "semantic segmentation"),
        ("new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ.py", "RegNet"),
        ("COCO-Detection/fast_rcnn_R_50_FPN_1x.yaml", "proposals from a file"),
        ("COCO-Detection/faster_rcnn_R_50_FPN_2x.yaml", "did you mean COCO-Detection/faster_rcnn_R_50_FPN_"),
    ],
)
def test_unsupported_zoo_entries_are_refused_with_the_reason(name: str, message: str) -> None:
    assert is_zoo_name(name)
    with pytest.raises(ValueError, match=message):
        convert_state(detectron2.SYSTEM, c4_state(), name)


def test_an_existing_file_is_read_whatever_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings(tmp_path, "MODEL: {MASK_ON: true, ROI_HEADS: {NUM_CLASSES: 3}}", "mask_rcnn_R_50_C4_1x.yaml")
    assert not is_zoo_name("mask_rcnn_R_50_C4_1x.yaml")
    assert convert_state(detectron2.SYSTEM, c4_state(), "mask_rcnn_R_50_C4_1x.yaml").config.num_classes == 3
    with pytest.raises(FileNotFoundError, match="the name of a config"):
        convert_state(detectron2.SYSTEM, c4_state(), "gone.yaml")


def c4_state() -> dict[str, Tensor]:
    config = override(model_config("mask_rcnn_r50_c4_caffe"), ["num_classes=3"])
    return to_detectron2(blank(config), config)


C4 = """
MODEL: {MASK_ON: true, ROI_HEADS: {NUM_CLASSES: 3}, RESNETS: {STRIDE_IN_1X1: false}}
SOLVER: {BASE_LR: 0.01}
"""
HONOURED = """
num_classes=3 backbone.stride_in_1x1=false backbone.frozen_stages=0
input.min_size=480 input.max_size=900 input.channel_order=rgb input.pixel_mean=[1,2,3] input.pixel_std=[4,5,6]
rpn.anchors.sizes=[[16,32,64,128,256]] rpn.anchors.ratios=[0.4,1.0,2.5] rpn.proposals.min_size=4
rpn.proposals.nms_iou=0.61 rpn.sampling.negative_iou=0.2
rpn.sampling.positive_iou=0.6 rpn.sampling.batch_size=31 rpn.sampling.positive_fraction=0.4 rpn.proposals.pre_nms=101
rpn.proposals.post_nms=102
rpn.proposals.pre_nms_train=103 rpn.proposals.post_nms_train=104 rpn.smooth_l1_beta=0.25 rpn.anchors.offset=0.5
rpn.legacy.straddle=3
box.score_threshold=0.3 box.selection.nms_iou=0.45 box.append_ground_truth=false
box.sampling.positive_iou=0.55 box.sampling.batch_size=33 box.sampling.positive_fraction=0.2
box.pooler.sampling_ratio=2 box.pooler.aligned=false
box.delta_weights=[1,2,3,4] box.smooth_l1_beta=0.5 box.selection.max_detections=7 mask.pooler.sampling_ratio=2
mask.pooler.aligned=false
mask.target=bitmap
"""


def test_every_setting_of_a_c4_yaml_is_used(tmp_path: Path) -> None:
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
  ANCHOR_GENERATOR: {SIZES: [[16, 32, 64, 128, 256]], ASPECT_RATIOS: [[0.4, 1.0, 2.5]], OFFSET: 0.5}
  PROPOSAL_GENERATOR: {MIN_SIZE: 4}
  RPN: {NMS_THRESH: 0.61, IOU_THRESHOLDS: [0.2, 0.6], BATCH_SIZE_PER_IMAGE: 31, POSITIVE_FRACTION: 0.4,
        PRE_NMS_TOPK_TEST: 101, POST_NMS_TOPK_TEST: 102, PRE_NMS_TOPK_TRAIN: 103, POST_NMS_TOPK_TRAIN: 104,
        SMOOTH_L1_BETA: 0.25, BOUNDARY_THRESH: 3}
  ROI_HEADS: {SCORE_THRESH_TEST: 0.3, NMS_THRESH_TEST: 0.45, IOU_THRESHOLDS: [0.55], BATCH_SIZE_PER_IMAGE: 33,
              POSITIVE_FRACTION: 0.2, PROPOSAL_APPEND_GT: false}
  ROI_BOX_HEAD: {POOLER_SAMPLING_RATIO: 2, POOLER_TYPE: ROIAlign, BBOX_REG_WEIGHTS: [1, 2, 3, 4], SMOOTH_L1_BETA: 0.5}
""",
    )
    given = convert_state(detectron2.SYSTEM, c4_state(), file)
    assert given.config == override(model_config("mask_rcnn_r50_c4_caffe"), HONOURED.split())
    assert given.classes == ("class_0", "class_1", "class_2")
    assert "settings of c.yaml" in given.summary
    assert [line.split(":")[0] for line in given.notes] == ["MODEL.RPN.BOUNDARY_THRESH=3"]


def test_what_detectron2_reads_more_freely_than_yaml(tmp_path: Path) -> None:
    settings(tmp_path, C4, "base.yaml")
    text = "MODEL: {ROI_HEADS: {SCORE_THRESH_TEST: 1e-4}, ANCHOR_GENERATOR: {SIZES: [8, 16, 32, 64, 128]}}"
    given = convert_state(detectron2.SYSTEM, c4_state(), settings(tmp_path, f"_BASE_: base.yaml\n{text}"))
    assert given.config.box.score_threshold == 1e-4
    assert given.config.rpn.anchors.sizes == ((8.0, 16.0, 32.0, 64.0, 128.0),)


FPN_YAML = """
_BASE_: ../Base-RCNN-FPN.yaml
INPUT: {FORMAT: RGB}
DATASETS: {TRAIN: "('voc_2007_trainval',)"}
TEST: {KEYPOINT_OKS_SIGMAS: [0.1, 0.2, 0.3, 0.4, 0.5]}
MODEL:
  MASK_ON: true
  KEYPOINT_ON: true
  BACKBONE: {FREEZE_AT: 3}
  RESNETS: {DEPTH: 101, NUM_GROUPS: 64, WIDTH_PER_GROUP: 4, STRIDE_IN_1X1: false, NORM: SyncBN}
  FPN: {OUT_CHANNELS: 64, NORM: GN}
  ANCHOR_GENERATOR: {SIZES: [[8, 12], [16, 24], [32, 48], [64, 96], [128, 192]], ASPECT_RATIOS: [[0.5, 2.0]]}
  RPN: {CONV_DIMS: [32, 32], LOSS_WEIGHT: 2.0, BBOX_REG_LOSS_WEIGHT: 1.5}
  ROI_HEADS: {NAME: CascadeROIHeads, NUM_CLASSES: 20, IOU_THRESHOLDS: [0.4]}
  ROI_BOX_CASCADE_HEAD: {IOUS: [0.4, 0.6], BBOX_REG_WEIGHTS: "((10.0, 10.0, 5.0, 5.0), (15.0, 15.0, 8.0, 8.0))"}
  ROI_BOX_HEAD: {CLS_AGNOSTIC_BBOX_REG: true, NUM_CONV: 2, CONV_DIM: 32, NUM_FC: 3, FC_DIM: 48, NORM: BN,
                 POOLER_TYPE: ROIPool, POOLER_RESOLUTION: 5, BBOX_REG_LOSS_WEIGHT: 0.5}
  ROI_MASK_HEAD: {CLS_AGNOSTIC_MASK: true, NUM_CONV: 3, CONV_DIM: 96, NORM: GN, POOLER_RESOLUTION: 10}
  ROI_KEYPOINT_HEAD: {NUM_KEYPOINTS: 5, CONV_DIMS: [24, 24], POOLER_TYPE: ROIAlign, POOLER_SAMPLING_RATIO: 2,
                      LOSS_WEIGHT: 0.5, NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS: false}
"""
FPN_WANTED = """
num_classes=20 input.channel_order=rgb backbone.groups=64 backbone.width_per_group=4 backbone.norm=sync_bn
backbone.frozen_stages=3 fpn.channels=64 fpn.norm=gn rpn.anchors.sizes=[[8,12],[16,24],[32,48],[64,96],[128,192]]
rpn.anchors.ratios=[0.5,2.0] rpn.convs=2 rpn.width=32 rpn.loss_weights=[2,3] box.delta_loss_weight=0.5
box.class_agnostic=true box.convs=2 box.conv_width=32 box.fcs=3
box.fc_width=48 box.norm=bn box.pooler.kind=roi_pool box.pooler.size=5 box.sampling.positive_iou=0.4
mask.class_agnostic=true mask.convs=3 mask.width=96 mask.norm=gn mask.pooler.size=10
"""


def test_every_setting_of_an_fpn_yaml_is_used_and_exported(tmp_path: Path) -> None:
    file = settings(tmp_path, FPN_YAML)
    expected = replace(
        override(model_config("mask_rcnn_r101_fpn"), FPN_WANTED.split()),
        cascade=CascadeConfig(
            ious=(0.4, 0.6),
            delta_weights=((10.0, 10.0, 5.0, 5.0), (15.0, 15.0, 8.0, 8.0)),
            loss_weights=(1.0, 1.0),
            feature_gradient=0.5,
        ),
        keypoint=KeypointHeadConfig(
            names=tuple(f"keypoint_{number}" for number in range(5)),
            flip_pairs=(),
            sigmas=(0.1, 0.2, 0.3, 0.4, 0.5),
            convs=2,
            width=24,
            normalizer="batch_size",
            loss_weight=0.5,
            pooler=PoolerConfig(size=14, sampling_ratio=2, aligned=False),
        ),
    )
    expected = replace(expected, name="cascade_mask_rcnn_x101_64x4d_fpn_syncbn")
    expected = replace(
        expected, input=replace(expected.input, pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0))
    )
    state = numbered(expected)
    theirs = to_detectron2(state, expected)
    assert "roi_heads.box_predictor.1.bbox_pred.weight" in theirs
    assert "roi_heads.box_head.0.conv2.norm.num_batches_tracked" in theirs
    assert "backbone.bottom_up.res2.0.conv1.norm.num_batches_tracked" not in theirs  # frozen there: another class
    assert "proposal_generator.rpn_head.conv.conv1.weight" in theirs
    given = convert_state(detectron2.SYSTEM, theirs, file)
    assert given.config == expected
    assert (given.classes[0], given.classes[-1]) == ("aeroplane", "tvmonitor")
    assert given.state.keys() == state.keys()
    assert all(torch.equal(given.state[name], value) for name, value in state.items())
    again = settings(tmp_path, settings_of(expected), "again.yaml")
    assert config_of(read_yaml(again), "again") == expected
    assert not_expressed(expected) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {KEYPOINT_ON: true}", r"MODEL\.KEYPOINT_ON=True is not supported; expected False"),
        (
            "MODEL: {ROI_HEADS: {NAME: CascadeROIHeads}}",
            r"CLS_AGNOSTIC_BBOX_REG=False is not supported; expected True",
        ),
        ("MODEL: {ANCHOR_GENERATOR: {NAME: RotatedAnchorGenerator}}", r"expected 'DefaultAnchorGenerator'"),
        ("MODEL: {RESNETS: {NORM: LN}}", r"MODEL\.RESNETS\.NORM='LN' is not supported; expected .*'FrozenBN' or 'BN'"),
        ("MODEL: {RESNETS: {DEPTH: 18}}", r"MODEL\.RESNETS\.DEPTH=18 is not supported; expected 50 or 101 or 152"),
        ("MODEL: {ROI_BOX_HEAD: {POOLER_TYPE: RoIAlign}}", r"POOLER_TYPE='RoIAlign' is not supported"),
        ("MODEL: {ROI_BOX_HEAD: {USE_SIGMOID_CE: true}}", r"USE_SIGMOID_CE=True is not supported"),
        ("MODEL: {RESNETS: {DEFORM_ON_PER_STAGE: [false, true, true, true]}}", "DEFORM_ON_PER_STAGE"),
        ("MODEL: {META_ARCHITECTURE: PanopticFPN}", "is a panoptic network"),
        ("MODEL: {META_ARCHITECTURE: RetinaNet}", "not an R-CNN"),
        ("MODEL: {META_ARCHITECTURE: MyNet}", "expected 'GeneralizedRCNN' or 'ProposalNetwork'"),
        ("MODEL: {LOAD_PROPOSALS: true}", "Fast R-CNN"),
        (
            "MODEL: {RPN: {NMS_THRESH: high}}",
            r"MODEL\.RPN\.NMS_THRESH='high' has the wrong type; expected a value such as 0\.7",
        ),
        ("MODEL: {RPN: {PRE_NMS_TOPK_TEST: 1.5}}", "has the wrong type"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: [[8], [16]]}}", r"expected sizes for one or 1 levels"),
        ("MODEL: {ANCHOR_GENERATOR: {SIZES: !!python/object/apply:os.getcwd []}}", "is not plain YAML"),
        ("MODEL: {RPN: {CONV_DIMS: [256, 128]}}", "one number of channels"),
        ("INPUT: {MIN_SIZE_TEST: 0}", "images are not resized"),
        ("TEST: {DETECTIONS_PER_IMAGE: -1}", "no limit"),
        ("INPUT: {FORMAT: L}", r"INPUT\.FORMAT='L'"),
        ("MODEL: {PIXEL_MEAN: [1, 2]}", r"MODEL\.PIXEL_MEAN=\[1, 2\] has the wrong type"),
        ("_BASE_: gone.yaml", r"builds on gone\.yaml, and .*gone\.yaml does not exist"),
        ("_BASE_: c.yaml", "names itself"),
        ("just words", "holds no settings"),
    ],
)
def test_a_setting_that_would_change_results_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = settings(tmp_path, text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        convert_state(detectron2.SYSTEM, c4_state(), file)
    with pytest.raises((ValueError, FileNotFoundError), match=r"c\.yaml"):
        convert_state(detectron2.SYSTEM, c4_state(), file)


def test_settings_that_are_not_kept_are_reported(tmp_path: Path) -> None:
    file = settings(
        tmp_path,
        C4 + "  \nTEST: {AUG: {ENABLED: true, FLIP: false}}\nMY: {HEAD: 3}\n",
    )
    given = convert_state(detectron2.SYSTEM, c4_state(), file)
    assert given.config.num_classes == 3
    assert any(line.startswith("TEST.AUG.ENABLED=True is not kept") for line in given.notes)
    assert any(line.startswith("MY.HEAD=3 is not a known Detectron2 setting") for line in given.notes)
    assert len(given.notes) == 2
    entry = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x_giou"
    config = config_of(zoo_settings(entry), entry)
    giou = convert_state(detectron2.SYSTEM, to_detectron2(blank(config), config), f"{entry}.yaml")
    assert sum("LOSS_TYPE" in line for line in giou.notes) == len(giou.notes) == 2
    assert (giou.config.rpn.loss_weights, giou.config.box.delta_loss_weight) == ((1.0, 2.0), 10.0)


def test_no_key_is_read_in_two_ways() -> None:
    assert not ONLY.keys() & TRAINING.keys()
    assert not any(hasattr(Settings, field_of(key)) for key in ONLY | TRAINING)


def test_settings_of_another_network_are_named_by_its_tensors(tmp_path: Path) -> None:
    file = settings(tmp_path, "MODEL: {ROI_HEADS: {NUM_CLASSES: 5}}")
    with pytest.raises(
        ValueError, match=r"unexpected: mask_head.*of another shape: .*box_head.logits.weight \(4, 2048\)"
    ):
        convert_state(detectron2.SYSTEM, c4_state(), file, "model_final.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sem_seg_head.predictor.weight", "a panoptic or semantic head"),
        ("head.cls_subnet.0.weight", "RetinaNet"),
        ("backbone.res3.0.conv2_offset.weight", "deformable"),
        ("backbone.body.trunk0.weight", "D2Go"),
        ("backbone.net.blocks.0.attn.qkv.weight", "vision transformer"),
        ("roi_heads.mask_point_head.fc1.weight", "PointRend"),
        ("backbone.something.weight", r"without a counterpart here: backbone\.something\.weight"),
    ],
)
def test_networks_of_detectron2_that_we_do_not_have(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state(detectron2.SYSTEM, {**c4_state(), name: torch.zeros(1)})


def test_buffers_of_older_files_are_skipped() -> None:
    extra = {
        "pixel_mean": torch.zeros(3, 1, 1),
        "pixel_std": torch.zeros(3, 1, 1),
        "proposal_generator.anchor_generator.cell_anchors.0": torch.zeros(15, 4),
        "backbone.res2.0.conv1.norm.num_batches_tracked": torch.tensor(7),
    }
    given = convert_state(detectron2.SYSTEM, {**c4_state(), **extra})
    assert set(given.skipped) == set(extra)
    assert given.config.num_classes == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("res4.5.conv3", "has a ResNet with 3, 4, 5, 3 blocks"),
        ("objectness_logits", "objectness_logits.weight is missing"),
    ],
)
def test_a_partial_file_is_recognised(change: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state(detectron2.SYSTEM, {name: value for name, value in c4_state().items() if change not in name})


def test_anchors_that_tensors_cannot_tell_ask_for_settings() -> None:
    config = override(model_config("faster_rcnn_r50_c4_caffe"), ["rpn.anchors.sizes=[[32,64]]"])
    with pytest.raises(ValueError, match=r"does not fit 10 x 3 anchors|rpn.anchors.sizes and rpn.anchors.ratios"):
        convert_state(detectron2.SYSTEM, to_detectron2(blank(config), config))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("backbone.res2.0.conv2.weight", (64,), "expected 4 dimensions"),
        ("roi_heads.box_predictor.cls_score.weight", (0, 2048), "none of them empty"),
        ("proposal_generator.rpn_head.objectness_logits.weight", (), "expected 4 dimensions"),
        ("roi_heads.mask_head.deconv.bias", (), "of another shape"),
    ],
)
def test_wrong_shapes_are_reported(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state(detectron2.SYSTEM, {**c4_state(), name: torch.zeros(shape)})
