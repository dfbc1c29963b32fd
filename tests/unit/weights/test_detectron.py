"""Detectron's (Caffe2) files: every family is recognised, rows are reordered, settings are read and never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.models import model_config
from rcnn.models.backbones.resnet import ResNet
from rcnn.models.config import ResNetConfig
from rcnn.models.layers import affine_of
from rcnn.ops.anchors import legacy_cell_anchors
from rcnn.weights.systems.detectron import system as detectron
from rcnn.weights.systems.detectron.names import RULES, in_our_layout
from rcnn.weights.systems.detectron.settings import yaml_settings
from rcnn.weights.systems.known import convert
from rcnn.weights.systems.layout import identity_statistics, swap_anchors
from rcnn.weights.systems.renaming import Placed
from tests.unit.weights.detectron_blobs import LEFT, blobs, python2_pickle
from tests.unit.weights.state_dicts import convert_state


def tensors(**options: Any) -> dict[str, Tensor]:
    """A whole file's blobs, without memory."""
    return {name: torch.zeros(()).expand(value.shape) for name, value in blobs(**options).items()}


FAMILIES: dict[str, dict[str, Any]] = {
    "rpn_r50_c4_caffe": {"fpn": False, "classes": None},
    "rpn_r50_fpn_caffe": {"classes": None},
    "faster_rcnn_r50_c4_caffe": {"fpn": False},
    "mask_rcnn_r50_c4_caffe": {"fpn": False, "masks": True},
    "mask_rcnn_r101_fpn_caffe": {"depth": 101, "masks": True},
    "faster_rcnn_x101_64x4d_fpn": {"depth": 101, "groups": 64, "width": 4},
    "mask_rcnn_x152_32x8d_fpn": {"depth": 152, "groups": 32, "width": 8, "masks": True},
    "mask_rcnn_r50_fpn_gn": {"group_norm": True, "masks": True},
    "keypoint_rcnn_r50_fpn_caffe": {"classes": 2, "keypoints": 17},
    "faster_rcnn_r50_fpn_caffe": {"classes": 21},
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_without_settings_is_taken_for_its_zoo(name: str) -> None:
    options = FAMILIES[name]
    state = tensors(**options)
    assert detectron.SYSTEM.recognises(state)
    given = convert_state(detectron.SYSTEM, state)
    config = given.config
    assert config.name.removesuffix("_caffe") == name.removesuffix("_caffe")
    unused = {blob for blob in state if blob.startswith("res5_")} if options.get("classes", 0) is None else set()
    fixed = {"kps_score_w", "kps_score_b"} if config.keypoint else set()
    assert set(given.skipped) - unused == (LEFT | fixed) & state.keys()
    classes = options.get("classes", 81)
    assert config.num_classes == (1 if classes is None else classes - 1)
    assert given.classes[0] == {None: "object", 81: "person", 2: "person", 21: "class_0"}[classes]
    assert any("stride in the 1x1" in line for line in given.assumed) == name.endswith("_caffe")
    assert all("Detectron's model zoo" in line for line in given.assumed)
    assert config.legacy.boxes == "inclusive"
    legacy = config.rpn.legacy
    assert (legacy.anchors, legacy.straddle, config.rpn.proposals.min_size) == ("detectron", 0.0, 1.0)
    assert config.rpn.smooth_l1_beta == pytest.approx(1 / 9)
    assert (config.input.resize, config.input.rescale, config.input.channel_order) == ("opencv_float", "factor", "bgr")
    assert config.input.pixel_mean == (102.9801, 115.9465, 122.7717)
    assert isinstance(config.backbone, ResNetConfig)
    assert config.backbone.stride_in_1x1 == name.endswith("_caffe")
    if classes is not None:
        assert (config.box.pooler.aligned, config.box.smooth_l1_beta) == (False, 1.0)
        assert config.box.pooler.sampling_ratio == (0 if "c4" in name else 2)
    if config.mask is not None:
        assert (config.mask.paste, config.mask.pooler.aligned) == ("padded", False)


C4_ANCHORS = {  # facts of the peer: sizes 32 to 512 of each ratio, x1, y1, x2, y2 of first and last pixel
    0.5: [(-15, -4, 30, 19), (-38, -16, 53, 31), (-84, -40, 99, 55), (-176, -88, 191, 103), (-360, -184, 375, 199)],
    1.0: [(-8, -8, 23, 23), (-24, -24, 39, 39), (-56, -56, 71, 71), (-120, -120, 135, 135), (-248, -248, 263, 263)],
    2.0: [(-3, -14, 18, 29), (-14, -36, 29, 51), (-36, -80, 51, 95), (-80, -168, 95, 183), (-168, -344, 183, 359)],
}


def test_rows_of_anchors_go_where_our_anchors_are() -> None:
    theirs = torch.tensor([box for ratio in (0.5, 1.0, 2.0) for box in C4_ANCHORS[ratio]], dtype=torch.float32)
    ours = legacy_cell_anchors((32, 64, 128, 256, 512), (0.5, 1.0, 2.0), 16)
    ours[:, 2:] -= 1  # the last pixel, as it is written there
    assert torch.equal(swap_anchors(theirs, 3, 5), ours)  # rows of four, as those of the deltas
    logits = torch.arange(15.0)[:, None, None, None].expand(15, 2, 1, 1)
    assert swap_anchors(logits, 3, 5)[:, 0, 0, 0].tolist() == [0, 5, 10, 1, 6, 11, 2, 7, 12, 3, 8, 13, 4, 9, 14]
    assert torch.equal(swap_anchors(logits[:3], 3, 1), logits[:3])
    with pytest.raises(ValueError, match=r"does not fit 2 x 4 anchors per cell: set rpn\.anchors\.ratios and"):
        swap_anchors(logits, 2, 4)


def test_the_background_goes_last_or_away() -> None:
    classes = torch.tensor([-1.0, 0, 1, 2])  # the background first
    state = {
        "box_head.logits.weight": classes[:, None].expand(4, 3),
        "box_head.logits.bias": classes,
        "box_head.deltas.weight": torch.arange(16.0)[:, None],
        "mask_head.logits.weight": classes[:, None, None, None],
        "mask_head.logits.bias": classes,
    }
    config = model_config("mask_rcnn_r50_c4_caffe")
    ours = {name: in_our_layout(name, value, config) for name, value in state.items()}
    assert ours["box_head.logits.weight"][:, 0].tolist() == [0, 1, 2, -1]
    assert ours["box_head.logits.bias"].tolist() == [0, 1, 2, -1]
    assert ours["box_head.deltas.weight"].flatten().tolist() == list(range(4, 16))
    assert ours["mask_head.logits.weight"].flatten().tolist() == ours["mask_head.logits.bias"].tolist() == [0, 1, 2]
    assert RULES.rename("fc6_w") == "box_head.trunk.fc1.weight"
    assert RULES.rename("fc7_b") == "box_head.trunk.fc2.bias"
    c4 = Placed({"a": "backbone.res5.0.conv1.weight"}).with_res5_in_the_head()
    assert c4.ours == {"a": "box_head.trunk.res5.0.conv1.weight"}
    alone = in_our_layout("mask_head.logits.bias", torch.zeros(1), config)
    assert len(alone) == 1  # one mask for all classes has no background


def seeded(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that keep a ResNet's features near 1."""
    rng = np.random.default_rng(sum(name.encode()) + len(name))
    if len(shape) > 1:
        return (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return (rng.random(shape) + 0.5 if name.endswith("_s") else rng.normal(0, 0.2, shape)).astype(np.float32)


def slow_trunk(blob: Mapping[str, np.ndarray], x: Tensor, one_by_one: bool, groups: int) -> list[Tensor]:
    """Caffe's ResNet computed from its blobs: one block per stage, affine channels after each convolution."""

    def affine(x: Tensor, name: str) -> Tensor:
        scale, shift = (torch.from_numpy(np.array(blob[f"{name}_{field}"])) for field in "sb")
        return x * scale[:, None, None] + shift[:, None, None]

    def conv(x: Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> Tensor:
        weight = torch.from_numpy(np.array(blob[f"{name}_w"]))
        norm = "res_conv1_bn" if name == "conv1" else f"{name}_bn"
        return affine(F.conv2d(x, weight, None, stride, padding, 1, groups), norm)

    x = F.max_pool2d(conv(x, "conv1", 2, 3).relu(), 3, 2, 1)
    maps = []
    for stage in (2, 3, 4, 5):
        stride, name = (1 if stage == 2 else 2), f"res{stage}_0_branch"
        y = conv(x, f"{name}2a", stride if one_by_one else 1).relu()
        y = conv(y, f"{name}2b", 1 if one_by_one else stride, 1, groups).relu()
        x = (conv(y, f"{name}2c") + conv(x, f"{name}1", stride)).relu()
        maps.append(x)
    return maps


@pytest.mark.parametrize(("one_by_one", "groups", "width"), [(True, 1, 64), (False, 32, 8)])
def test_the_trunk_equals_a_forward_pass_of_the_blobs(one_by_one: bool, groups: int, width: int) -> None:
    arrays = blobs(blocks=(1, 1, 1, 1), groups=groups, width=width, classes=None, fpn=False, fill=seeded)
    names = RULES.place(arrays, "blobs", "Detectron").ours
    state = {ours: torch.from_numpy(np.array(arrays[name])) for name, ours in names.items()}
    state = {name: value for name, value in identity_statistics(state).items() if name.startswith("backbone.")}
    config = ResNetConfig(
        blocks=(1, 1, 1, 1), groups=groups, width_per_group=width, stride_in_1x1=one_by_one, norm_eps=0
    )
    net = ResNet(config).eval()
    net.load_state_dict({name.removeprefix("backbone."): value for name, value in state.items()})
    assert net.stem.conv1.norm is not None
    scale, shift = affine_of(net.stem.conv1.norm)
    assert torch.equal(scale, state["backbone.stem.conv1.norm.weight"])  # bit for bit
    assert torch.equal(shift, state["backbone.stem.conv1.norm.bias"])
    x = torch.randn(1, 3, 64, 80, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, ours = slow_trunk(arrays, x, one_by_one, groups), net(x)
    for number, value in zip((2, 3, 4, 5), expected, strict=True):
        torch.testing.assert_close(ours[f"c{number}"], value, atol=2e-5, rtol=1e-4)


# what Detectron itself dumps: objects of its own and of numpy among plain values
CFG = """
!!python/object/new:detectron.utils.collections.AttrDict
dictitems:
  BBOX_XFORM_CLIP: !!python/object/apply:numpy.core.multiarray.scalar
  - !!python/object/apply:numpy.dtype
    args: [f8, 0, 1]
    state: !!python/tuple [3, <, null, null, null, -1, -1, 0]
  - !!binary |
    qeISGmmKEEA=
  PIXEL_MEANS: !!python/object/apply:numpy.core.multiarray._reconstruct
    args:
    - !!python/name:numpy.ndarray ''
    - !!python/tuple [0]
    - b
    state: !!python/tuple
    - 1
    - !!python/tuple [1, 1, 3]
    - !!python/object/apply:numpy.dtype
      args: [f8, 0, 1]
      state: !!python/tuple [3, <, null, null, null, -1, -1, 0]
    - false
    - !!binary |
      AAAAAAAAWUAAAAAAAIBZQAAAAAAAAFpA
  MODEL: !!python/object/new:detectron.utils.collections.AttrDict
    dictitems:
      TYPE: !!python/unicode 'generalized_rcnn'
      CONV_BODY: FPN.add_fpn_ResNet50_conv5_body
      NUM_CLASSES: 4
      FASTER_RCNN: true
      MASK_ON: true
      BBOX_REG_WEIGHTS: !!python/tuple [8.0, 8.0, 4.0, 4.0]
    state: {__immutable__: true}
  FPN: !!python/object/new:detectron.utils.collections.AttrDict
    dictitems: {FPN_ON: true, MULTILEVEL_ROIS: true, MULTILEVEL_RPN: true, RPN_ANCHOR_START_SIZE: 16}
  FAST_RCNN: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIPoolF, ROI_XFORM_RESOLUTION: 7}
  MRCNN: {ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs, DILATION: 1, ROI_XFORM_RESOLUTION: 14,
          ROI_XFORM_SAMPLING_RATIO: 2, RESOLUTION: 28}
  TRAIN: {BATCH_SIZE_PER_IM: 256, RPN_STRADDLE_THRESH: -1, FREEZE_AT: 0, BG_THRESH_LO: 0.1}
  TEST: {SCALE: 500, MAX_SIZE: 833, NMS: 0.45, SCORE_THRESH: 0.2, RPN_PRE_NMS_TOP_N: 500, RPN_POST_NMS_TOP_N: 400,
         DETECTIONS_PER_IM: 50, BLUR: 2, SOFT_NMS: {ENABLED: true, METHOD: gaussian, SIGMA: 0.4},
         BBOX_VOTE: {ENABLED: true}}
  MY: {WORD: 3}
  RNG_SEED: !!python/long 3
  ROOT_DIR: folder
state: {__immutable__: true}
"""


def test_the_settings_in_the_file_are_read_and_never_run(tmp_path: Path) -> None:
    file = tmp_path / "model_final.pkl"
    file.write_bytes(python2_pickle(blobs(classes=4, masks=True), CFG))
    given = convert(file)
    config = given.config
    assert given.system == "Detectron"
    assert "settings of the file" in given.summary
    assert config.input.pixel_mean == (100.0, 102.0, 104.0)
    assert config.box.max_log_scale == pytest.approx(4.135166556742356)
    assert config.num_classes == 3
    assert config.box.delta_weights == (8.0, 8.0, 4.0, 4.0)
    assert config.rpn.anchors.sizes == ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    assert (config.box.pooler.kind, config.box.pooler.size, config.box.sampling.batch_size) == ("roi_pool", 7, 256)
    assert (config.box.sampling.min_negative_iou, config.rpn.legacy.straddle) == (0.1, -1.0)
    assert isinstance(config.backbone, ResNetConfig)
    assert config.backbone.frozen_stages == 0
    assert (config.input.min_size, config.input.max_size) == (500, 833)
    assert (config.box.selection.nms_iou, config.box.score_threshold, config.box.selection.max_detections) == (
        0.45,
        0.2,
        50,
    )
    assert (config.box.selection.nms, config.box.selection.soft_nms_sigma) == ("soft_gaussian", 0.4)
    assert (config.rpn.proposals.pre_nms, config.rpn.proposals.post_nms) == (500, 400)
    assert [line.split("=")[0] for line in given.notes] == ["TEST.BLUR", "TEST.BBOX_VOTE.ENABLED", "MY.WORD"]
    assert config.mask is not None
    assert (config.mask.pooler.size, config.mask.pooler.sampling_ratio) == (14, 2)


def test_masks_on_the_shared_res5_are_pooled_by_their_own_settings(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "MODEL: {FASTER_RCNN: true, MASK_ON: true, NUM_CLASSES: 81}\nRPN: {SIZES: [32, 64, 128, 256, 512]}\n"
        "FAST_RCNN: {ROI_BOX_HEAD: ResNet.add_ResNet_roi_conv5_head}\n"
        "MRCNN: {ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare, DILATION: 1, ROI_XFORM_RESOLUTION: 14,\n"
        "        ROI_XFORM_SAMPLING_RATIO: 2}\n"
        "TEST: {SCALES: !!python/tuple [640], RPN_MIN_SIZE: 3}\n"
        "TRAIN: {RPN_NMS_THRESH: 0.8, BG_THRESH_HI: 0.5, RPN_MIN_SIZE: 0}\n"
    )
    given = convert_state(detectron.SYSTEM, tensors(fpn=False, masks=True), tmp_path / "c.yaml")
    assert [line.split(" is ")[0] for line in given.notes] == ["TRAIN.RPN_NMS_THRESH=0.8"]
    config = given.config
    assert config.mask is not None
    assert (config.box.pooler.kind, config.mask.pooler.kind) == ("roi_pool", "roi_align")  # Detectron's defaults
    assert (config.mask.pooler.size, config.mask.pooler.sampling_ratio, config.mask.trunk) == (14, 2, "res5")
    assert config.input.min_size == 640  # as older files say it


def test_code_in_settings_is_never_run() -> None:
    text = "MODEL: {NUM_CLASSES: !!python/object/apply:os.system ['touch x']}\nTEST: !!python/name:os.system ''\n"
    settings = yaml_settings(text, "f")
    assert all("os.system" in repr(value) for value in settings.values())
    with pytest.raises(ValueError, match="not plain YAML"):
        yaml_settings("MODEL: !!python/module:os ''", "f")
    with pytest.raises(ValueError, match="holds no settings"):
        yaml_settings("words", "f")


FPN_SETTINGS = """
MODEL: {FASTER_RCNN: true, NUM_CLASSES: 81}
FPN: {FPN_ON: true}
FAST_RCNN: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, ROI_XFORM_RESOLUTION: 7}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MODEL: {FASTER_RCNN: false}", "Fast R-CNN on proposals from a file"),
        (
            "FPN: {FPN_ON: true, EXTRA_CONV_LEVELS: true}",
            r"FPN\.EXTRA_CONV_LEVELS=True is not supported; expected False",
        ),
        ("RESNETS: {RES5_DILATION: 2}", "RES5_DILATION"),
        ("RETINANET: {RETINANET_ON: true}", "one-stage"),
        (
            "FAST_RCNN: {ROI_BOX_HEAD: my.head}",
            "ROI_BOX_HEAD='head' is not supported; expected add_ResNet_roi_conv5_head",
        ),
        ("FAST_RCNN: {ROI_BOX_HEAD: x.add_roi_2mlp_head, ROI_XFORM_METHOD: Crop}", "expected RoIAlign or RoIPoolF"),
        ("TEST: {NMS: high}", r"TEST\.NMS='high' has the wrong type"),
        (
            "MODEL: {FASTER_RCNN: true, BBOX_REG_WEIGHTS: [1, 2]}",
            r"BBOX_REG_WEIGHTS=\[1, 2\] has the wrong type",
        ),
        ("PIXEL_MEANS: [1, 2]", r"PIXEL_MEANS=\[1, 2\] has the wrong type"),
    ],
)
def test_settings_that_we_do_not_have_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    base = {"MODEL": "MODEL: {FASTER_RCNN: true, NUM_CLASSES: 81}", "FPN": "FPN: {FPN_ON: true}",
            "FAST_RCNN": FPN_SETTINGS.splitlines()[3]}  # fmt: skip
    lines = [line for section, line in base.items() if not text.startswith(section)]
    (tmp_path / "c.yaml").write_text("\n".join([*lines, text]))
    with pytest.raises(ValueError, match=message):
        convert_state(detectron.SYSTEM, tensors(), tmp_path / "c.yaml")
    with pytest.raises(ValueError, match=r"c\.yaml"):
        convert_state(detectron.SYSTEM, tensors(), tmp_path / "c.yaml")


def test_a_yaml_given_goes_before_the_settings_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        FPN_SETTINGS + "TEST: {SCALE: 640}\nTRAIN: {DATASETS: \"('voc_2007_trainval',)\"}\n"
    )
    given = convert_state(detectron.SYSTEM, tensors(), tmp_path / "c.yaml", "f", {"cfg": "TEST: {SCALE: 320}"})
    assert given.config.input.min_size == 640
    voc = convert_state(
        detectron.SYSTEM, tensors(classes=21), None, "f", {"cfg": (tmp_path / "c.yaml").read_text().replace("81", "21")}
    )
    assert (voc.classes[0], voc.classes[19]) == ("aeroplane", "tvmonitor")
    with pytest.raises(ValueError, match=r"of another shape: .*box_head.logits.weight \(21, 1024\)"):
        convert_state(detectron.SYSTEM, tensors(classes=21), tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        ("retnet_cls_pred_fpn3_w", "RetinaNet"),
        ("_[mask]_res5_0_branch2a_w", "a separate res5"),
        ("something_w", r"without a counterpart here: something_w"),
    ],
)
def test_networks_of_detectron_that_we_do_not_have(blob: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state(detectron.SYSTEM, {**tensors(), blob: torch.zeros(1)})
    fast = {name: value for name, value in tensors().items() if "rpn" not in name}
    assert detectron.SYSTEM.recognises(fast)
    with pytest.raises(ValueError, match="it has no RPN"):
        convert_state(detectron.SYSTEM, fast)
    with pytest.raises(ValueError, match="has a ResNet with 3, 4, 5 blocks"):
        convert_state(
            detectron.SYSTEM, {name: value for name, value in tensors().items() if not name.startswith("res4_5")}
        )
    assert not detectron.SYSTEM.recognises([name for name in blobs(classes=None) if "rpn" not in name])  # a trunk alone


@pytest.mark.parametrize(
    ("blob", "shape", "message"),
    [
        ("res2_0_branch2b_w", (64,), "expected 4 dimensions"),
        ("cls_score_w", (), "expected 2 dimensions"),
        ("rpn_cls_logits_w", (12, 1024, 1, 1), "does not fit 3 x 5 anchors"),
        ("res2_0_branch2a_bn_s", (), "of another shape"),
        ("bbox_pred_b", (), "of another shape"),
    ],
)
def test_wrong_shapes_are_reported(blob: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        convert_state(detectron.SYSTEM, {**tensors(fpn=False, masks=True), blob: torch.zeros(shape)})
