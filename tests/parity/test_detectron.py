"""A Detectron (Caffe2) file, converted as a user would, against the same network computed straight from its blobs.

No Detectron file was available: names, shapes and arithmetic are as published, the values are generated from names.
"""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch

from rcnn.models.heads.box import BoxHead
from rcnn.ops.anchors import legacy_cell_anchors
from rcnn.structures import ImageBatch
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems.known import convert
from tests.deviations import assert_within
from tests.narrow import instance
from tests.parity.golden_detectron2 import match_sets
from tests.parity.peer_detectron import C4_ANCHORS, Peer, Rules
from tests.unit.weights.detectron_blobs import blobs, python2_pickle

CLASSES = 5
RULES = Rules(pre=60, post=40, threshold=0.12, most=30)
SIZE, SCALE, FILE = (144, 192), 1.5, (96, 128)  # height and width of the input, by what the file was multiplied
MEANS = (102.9801, 115.9465, 122.7717)
CFG = """
MODEL: {FASTER_RCNN: true, MASK_ON: true, NUM_CLASSES: 6}
RPN: {SIZES: "(32, 64, 128, 256, 512)"}
TEST: {SCALE: 144, MAX_SIZE: 300, NMS: 0.5, SCORE_THRESH: 0.12, DETECTIONS_PER_IM: 30, RPN_PRE_NMS_TOP_N: 60,
       RPN_POST_NMS_TOP_N: 40}
"""
HEADS = {
    True: """
FPN: {FPN_ON: true, MULTILEVEL_ROIS: true, MULTILEVEL_RPN: true}
FAST_RCNN: {ROI_BOX_HEAD: fast_rcnn_heads.add_roi_2mlp_head, ROI_XFORM_METHOD: RoIAlign, ROI_XFORM_RESOLUTION: 7,
            ROI_XFORM_SAMPLING_RATIO: 2}
MRCNN: {ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v1up4convs, DILATION: 1, ROI_XFORM_RESOLUTION: 14,
        ROI_XFORM_SAMPLING_RATIO: 2}
""",
    False: """
FAST_RCNN: {ROI_BOX_HEAD: ResNet.add_ResNet_roi_conv5_head, ROI_XFORM_METHOD: RoIAlign}
MRCNN: {ROI_MASK_HEAD: mask_rcnn_heads.mask_rcnn_fcn_head_v0upshare, DILATION: 1, ROI_XFORM_RESOLUTION: 14}
""",
}
SPREAD = {
    "conv1_w": 0.003,  # pixels are not of deviation 1 here
    "fpn_inner": 0.3,
    "rpn_cls_logits": 3.0,
    "rpn_bbox_pred": 0.2,
    "cls_score_w": 2.0,
    "bbox_pred_w": 2.0,
    "mask_fcn_logits_w": 6.0,
}


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values that keep features near 1 and scores distinct."""
    rng = np.random.default_rng(crc32(name.encode()))
    if len(shape) == 1:
        if name.endswith("_s"):
            return ((rng.random(shape) + 0.5) * (0.2 if "branch2c" in name else 1.2)).astype(np.float32)
        return rng.normal(0, 0.1, shape).astype(np.float32)
    inputs = np.prod(shape[1:]) if name != "conv5_mask_w" else shape[0]
    scale = next((factor for part, factor in SPREAD.items() if name.startswith(part)), 1.4)
    return (rng.standard_normal(shape, dtype=np.float32) * np.float32(scale / np.sqrt(inputs))).astype(np.float32)


@pytest.mark.parametrize("fpn", [True, False])
@torch.no_grad()
def test_every_stage_equals_the_blobs_own(tmp_path: Path, fpn: bool) -> None:
    arrays = blobs(fpn=fpn, classes=CLASSES + 1, masks=True, fill=value)
    file = tmp_path / "model_final.pkl"
    file.write_bytes(python2_pickle(arrays, CFG + HEADS[fpn]))
    converted = convert(file)
    assert converted.config.name == f"mask_rcnn_r50_{'fpn' if fpn else 'c4'}_caffe"
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    detector.eval()
    peer = Peer(arrays, fpn)

    shade = torch.rand(1, 3, *SIZE, generator=torch.Generator().manual_seed(3)) * 255  # RGB
    shade = torch.nn.functional.avg_pool2d(shade, 9, 1, 4) * 2 - 128
    height, width = ((-(-side // 32) * 32) if fpn else side for side in SIZE)
    padded = torch.zeros(1, 3, height, width)
    padded[:, :, : SIZE[0], : SIZE[1]] = shade
    images = ImageBatch(
        pixels=padded, sizes=torch.tensor([SIZE]), scales=torch.tensor([SCALE]), originals=torch.tensor([FILE])
    )
    theirs = torch.zeros_like(padded)
    theirs[:, :, : SIZE[0], : SIZE[1]] = shade.flip(1) - torch.tensor(MEANS)[:, None, None]

    maps, features = peer.features(theirs), detector.features(images)
    for level, expected in maps.items():
        assert_within("features", features[f"{'p' if fpn else 'c'}{level}"], expected, atol=2e-4, rtol=1e-4)
    place = list(range(3))
    if not fpn:  # where each of our anchors is among theirs
        ours = legacy_cell_anchors((32, 64, 128, 256, 512), (0.5, 1.0, 2.0), 16) - torch.tensor([0.0, 0, 1, 1])
        anchors = [list(box) for box in C4_ANCHORS]
        place = [anchors.index(box) for box in ours.long().tolist()]
        assert sorted(place) == list(range(15))
    for level, x in maps.items():
        logits, deltas = peer.rpn(x)
        mine = detector.rpn.convs(features[f"{'p' if fpn else 'c'}{level}"])
        assert_within("rpn logits", detector.rpn.objectness(mine)[0], logits[place], atol=3e-4, rtol=1e-4)
        assert_within(
            "rpn deltas", detector.rpn.deltas(mine)[0].unflatten(0, (-1, 4)), deltas[place], atol=1e-4, rtol=1e-4
        )

    regions = peer.proposals(maps, SIZE, RULES)
    found = detector.rpn.predict(features, images)
    mine = found.boxes[0][found.valid[0]].numpy() - np.array([0, 0, 1, 1])
    assert 15 < len(regions) <= RULES.post
    assert_within("proposal boxes", mine[match_sets(mine, regions, None, None)], regions, atol=0.01)

    boxes = torch.from_numpy(regions + np.array([0, 0, 1, 1])).float()[None]
    outputs = instance(detector.box_head, BoxHead).predict_regions(
        features, boxes, torch.ones(boxes.shape[:2], dtype=torch.bool)
    )
    scores, offsets = peer.box_head(maps, regions)
    assert_within("class scores", outputs.logits[0].softmax(-1), scores.roll(-1, 1), atol=3e-4, rtol=1e-4)
    assert_within("box deltas", outputs.deltas[0], offsets[:, 1:], atol=5e-4, rtol=1e-4)

    expected_boxes, expected_scores, kinds = peer.detections(maps, regions, SCALE, FILE, RULES)
    detections = detector.predict(images)
    real = detections.valid[0]
    mine = detections.boxes[0][real].numpy() / SCALE - np.array([0, 0, 1, 1])  # the file's last pixel
    order = match_sets(mine, expected_boxes, detections.labels[0][real].numpy(), kinds - 1)
    assert 5 < len(kinds) <= RULES.most
    assert len(set(kinds)) > 1
    assert_within("detection boxes", mine[order], expected_boxes, atol=0.02)
    assert_within("detection scores", detections.scores[0][real].numpy()[order], expected_scores, atol=3e-4)
    expected_masks = peer.masks(maps, expected_boxes * SCALE, kinds)
    assert detections.masks is not None
    assert_within("mask probabilities", detections.masks[0][real][order], expected_masks, atol=2e-3, rtol=0)
    assert 0.1 < (expected_masks > 0.5).float().mean() < 0.9
