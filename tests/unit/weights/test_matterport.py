"""matterport's files: an .h5 of seeded weights, run by code from its rules and by ours; known and unknown settings."""

from __future__ import annotations

import re
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

from rcnn.models import Detector
from rcnn.predictor import Predictor, to_original
from rcnn.preprocess import build_preprocessor
from rcnn.structures import Detections, ImageBatch
from rcnn.weights.checkpoint import empty_detector
from rcnn.weights.systems import matterport
from rcnn.weights.systems.known import convert
from rcnn.weights.systems.matterport import recognises
from tests.compiled import FORWARD
from tests.parity.golden_detectron2 import match_sets
from tests.unit.weights.state_dicts import convert_state

CLASSES, WIDTH, FC, SIDE = 4, 32, 64, 128
WORDS = f"IMAGE_MIN_DIM={SIDE} IMAGE_MAX_DIM={SIDE} DETECTION_MIN_CONFIDENCE=0.5 POST_NMS_ROIS_INFERENCE=40"


def peer_layers() -> dict[str, tuple[int, ...]]:
    """Kernel shapes by layer, for one block per stage."""
    layers: dict[str, tuple[int, ...]] = {"conv1": (7, 7, 3, 64)}
    channels = 64
    for stage in (2, 3, 4, 5):
        width = 16 * 2**stage
        layers |= {
            f"res{stage}a_branch2a": (1, 1, channels, width), f"res{stage}a_branch2b": (3, 3, width, width),
            f"res{stage}a_branch2c": (1, 1, width, 4 * width), f"res{stage}a_branch1": (1, 1, channels, 4 * width),
        }  # fmt: skip
        channels = 4 * width
        layers |= {f"fpn_c{stage}p{stage}": (1, 1, channels, WIDTH), f"fpn_p{stage}": (3, 3, WIDTH, WIDTH)}
    layers |= {
        "rpn_conv_shared": (3, 3, WIDTH, 48), "rpn_class_raw": (1, 1, 48, 6), "rpn_bbox_pred": (1, 1, 48, 12),
        "mrcnn_class_conv1": (7, 7, WIDTH, FC), "mrcnn_class_conv2": (1, 1, FC, FC),
        "mrcnn_class_logits": (FC, CLASSES + 1), "mrcnn_bbox_fc": (FC, 4 * (CLASSES + 1)),
        "mrcnn_mask_deconv": (2, 2, WIDTH, WIDTH), "mrcnn_mask": (1, 1, WIDTH, CLASSES + 1),
    }  # fmt: skip
    return layers | {f"mrcnn_mask_conv{number}": (3, 3, WIDTH, WIDTH) for number in (1, 2, 3, 4)}


def norm_of(layer: str) -> str:
    if layer == "conv1":
        return "bn_conv1"
    return layer.replace("res", "bn") if layer.startswith("res") else layer.replace("_conv", "_bn")


def peer_weights() -> dict[str, np.ndarray]:
    """Every array by its Keras path."""
    draw = np.random.default_rng(3)
    gains = {"conv1": 0.02, "rpn_class_raw": 0.4, "rpn_bbox_pred": 0.2, "mrcnn_class_logits": 0.6, "mrcnn_bbox_fc": 0.4}
    weights = {}
    for layer, shape in peer_layers().items():
        group = "rpn_model" if layer.startswith("rpn_") else layer
        fan = np.prod(shape[:2]) * shape[3 if layer == "mrcnn_mask_deconv" else 2] if len(shape) == 4 else shape[0]
        gain = gains.get(layer, 3.0 if layer == "mrcnn_mask" else 1.4)
        channels = shape[2] if layer == "mrcnn_mask_deconv" else shape[-1]
        place = f"{group}/{layer}"
        weights[f"{place}/kernel:0"] = draw.normal(0, gain / np.sqrt(fan / (4 if "deconv" in layer else 1)), shape)
        weights[f"{place}/bias:0"] = draw.normal(0, 0.1, channels)
        if layer == "conv1" or layer.startswith(("res", "mrcnn_class_conv", "mrcnn_mask_conv")):
            place = f"{norm_of(layer)}/{norm_of(layer)}"
            gain = 0.3 if layer.endswith("2c") else 1.0
            weights[f"{place}/gamma:0"] = gain * draw.normal(1, 0.1, channels)
            weights[f"{place}/beta:0"] = draw.normal(0, 0.1, channels)
            weights[f"{place}/moving_mean:0"] = draw.normal(0, 0.1, channels)
            weights[f"{place}/moving_variance:0"] = draw.uniform(0.5, 1.5, channels)
    return {name: value.astype(np.float32) for name, value in weights.items()}


class Rules:
    """matterport's inference on its square canvas, in its coordinates (y1, x1, y2, x2 from 0 to 1)."""

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        self.weights = {"/".join(name.split("/")[1:]): torch.from_numpy(value) for name, value in weights.items()}

    def conv(self, x: Tensor, layer: str, stride: int = 1) -> Tensor:
        kernel = self.weights[f"{layer}/kernel:0"].permute(3, 2, 0, 1)
        padding = 0 if layer == "mrcnn_class_conv1" else kernel.shape[-1] // 2
        return F.conv2d(x, kernel, self.weights[f"{layer}/bias:0"], stride, padding)

    def normed(self, x: Tensor, layer: str, stride: int = 1) -> Tensor:
        x, norm = self.conv(x, layer, stride), norm_of(layer)
        fields = ("moving_mean", "moving_variance", "gamma", "beta")
        mean, variance, gamma, beta = (self.weights[f"{norm}/{field}:0"] for field in fields)
        return F.batch_norm(x, mean, variance, gamma, beta, eps=1e-3)

    def pyramid(self, image: np.ndarray) -> list[Tensor]:
        x = torch.from_numpy(image - np.array([123.7, 116.8, 103.9])).float().permute(2, 0, 1)[None]
        x = F.relu(self.normed(x, "conv1", 2))
        x = F.max_pool2d(F.pad(x, (0, 1, 0, 1)), 3, 2)  # "same" of an even side
        maps = []
        for stage in (2, 3, 4, 5):
            place, stride = f"res{stage}a_branch", 1 if stage == 2 else 2
            y = F.relu(self.normed(x, f"{place}2a", stride))
            y = self.normed(F.relu(self.normed(y, f"{place}2b")), f"{place}2c")
            x = F.relu(y + self.normed(x, f"{place}1", stride))
            maps.append(x)
        tops = [self.conv(maps[3], "fpn_c5p5")]
        for stage in (4, 3, 2):
            up = tops[0].repeat_interleave(2, 2).repeat_interleave(2, 3)
            tops.insert(0, up + self.conv(maps[stage - 2], f"fpn_c{stage}p{stage}"))
        outputs = [self.conv(x, f"fpn_p{stage}") for stage, x in enumerate(tops, start=2)]
        return [*outputs, outputs[-1][:, :, ::2, ::2]]

    def proposals(self, maps: list[Tensor]) -> Tensor:
        scores: list[Tensor] = []
        deltas: list[Tensor] = []
        anchors: list[list[float]] = []
        for x, stride, scale in zip(maps, (4, 8, 16, 32, 64), (32, 64, 128, 256, 512), strict=True):
            shared = F.relu(self.conv(x, "rpn_conv_shared"))
            scores.append(self.conv(shared, "rpn_class_raw")[0].permute(1, 2, 0).reshape(-1, 2).softmax(1)[:, 1])
            deltas.append(self.conv(shared, "rpn_bbox_pred")[0].permute(1, 2, 0).reshape(-1, 4))
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    for ratio in (0.5, 1, 2):
                        high, wide = scale / np.sqrt(ratio), scale * np.sqrt(ratio)
                        y, x0 = row * stride, column * stride
                        anchors.append([y - high / 2, x0 - wide / 2, y + high / 2, x0 + wide / 2])
        unit = (torch.tensor(np.array(anchors)).float() - torch.tensor([0, 0, 1, 1])) / (SIDE - 1)
        score, delta = torch.cat(scores), torch.cat(deltas) * torch.tensor([0.1, 0.1, 0.2, 0.2])
        best = score.topk(min(6000, len(score)))[1]
        boxes = applied(unit[best], delta[best]).clamp(0, 1)
        return boxes[torchvision.ops.nms(boxes, score[best], 0.7)[:40]]

    def crop(self, maps: list[Tensor], boxes: Tensor, size: int) -> Tensor:
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        levels = (4 + torch.log2(area.sqrt() / (224.0 / SIDE)).round()).clamp(2, 5)
        pooled = []
        for box, level in zip(boxes, levels.int().tolist(), strict=True):
            values = maps[level - 2][0]
            last = values.shape[1] - 1
            rows = torch.linspace(0, 1, size) * (box[2] - box[0]) * last + box[0] * last
            columns = torch.linspace(0, 1, size) * (box[3] - box[1]) * last + box[1] * last
            y, x = rows.floor().long().clamp(0, last), columns.floor().long().clamp(0, last)
            down, right = (rows - y)[:, None], columns - x
            y1, x1 = (y + 1).clamp(max=last), (x + 1).clamp(max=last)
            top = values[:, y][:, :, x] * (1 - right) + values[:, y][:, :, x1] * right
            bottom = values[:, y1][:, :, x] * (1 - right) + values[:, y1][:, :, x1] * right
            pooled.append(top * (1 - down) + bottom * down)
        return torch.stack(pooled)

    def detect(self, square: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        maps = self.pyramid(square)
        rois = self.proposals(maps)
        x = F.relu(self.normed(self.crop(maps, rois, 7), "mrcnn_class_conv1"))
        x = F.relu(self.normed(x, "mrcnn_class_conv2"))[:, :, 0, 0]
        dense = {name: self.weights[f"{name}/kernel:0"] for name in ("mrcnn_class_logits", "mrcnn_bbox_fc")}
        probs = (x @ dense["mrcnn_class_logits"] + self.weights["mrcnn_class_logits/bias:0"]).softmax(1)
        deltas = (x @ dense["mrcnn_bbox_fc"] + self.weights["mrcnn_bbox_fc/bias:0"]).unflatten(1, (-1, 4))
        score, label = probs.max(1)
        boxes = applied(rois, deltas[torch.arange(len(label)), label] * torch.tensor([0.1, 0.1, 0.2, 0.2])).clamp(0, 1)
        keep = (label > 0) & (score >= 0.5)
        boxes, score, label = boxes[keep], score[keep], label[keep]
        kept = torchvision.ops.batched_nms(boxes * 100, score, label, 0.3)[:100]
        boxes, score, label = boxes[kept], score[kept], label[kept]
        x = self.crop(maps, boxes, 14)
        for number in (1, 2, 3, 4):
            x = F.relu(self.normed(x, f"mrcnn_mask_conv{number}"))
        kernel = self.weights["mrcnn_mask_deconv/kernel:0"].permute(3, 2, 0, 1)
        x = F.relu(F.conv_transpose2d(x, kernel, self.weights["mrcnn_mask_deconv/bias:0"], stride=2))
        masks = self.conv(x, "mrcnn_mask")[torch.arange(len(label)), label].sigmoid()
        return boxes, score, label - 1, masks


def applied(boxes: Tensor, deltas: Tensor) -> Tensor:
    """apply_box_deltas: centres and sizes of boxes y1 x1 y2 x2 moved by dy dx dh dw."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = boxes[:, :2] + 0.5 * size + deltas[:, :2] * size
    size = size * deltas[:, 2:].exp()
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], 1)


@torch.no_grad()
def test_an_image_by_the_rules_and_by_us(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    weights = peer_weights()
    with h5py.File(tmp_path / "mask_rcnn_coco.h5", "w") as file:
        for name, value in weights.items():
            file[name] = value
        file.attrs["layer_names"] = [name.encode() for name in peer_layers()]
    converted = convert(tmp_path / "mask_rcnn_coco.h5", WORDS)
    assert converted.system == "matterport's Mask R-CNN"
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    image = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)  # twice as large, the square is full
    predictor = Predictor(detector.eval(), classes=list("abcd"), device="cpu")
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    prepared, _ = predictor.prepare(pixels)
    boxes, scores, labels, masks = Rules(weights).detect(prepared.permute(1, 2, 0).double().numpy())
    assert len(boxes) >= 5
    y1, x1, y2, x2 = (boxes * 63 + torch.tensor([0, 0, 1, 1])).unbind(1)  # the unit ends on the last pixel
    expected = torch.stack([x1, y1, x2, y2], 1).round().numpy()
    [found] = predictor.predict([pixels])
    order = match_sets(found.boxes, expected, found.labels, labels.numpy())
    np.testing.assert_allclose(found.boxes[order], expected, atol=0.01)
    np.testing.assert_allclose(found.scores[order], scores.numpy(), atol=1e-4)
    assert found.box_masks is not None
    np.testing.assert_allclose(found.box_masks[order], masks.numpy(), atol=1e-3)


def test_the_square_canvas_and_back_by_hand() -> None:
    """A wide image becomes 100 x 128, 14 pixels below the top; boxes are returned in whole pixels of the file."""
    config = convert_state(matterport.SYSTEM, tiny_state(), "IMAGE_MIN_DIM=100 IMAGE_MAX_DIM=128").config
    image = torch.from_numpy(np.random.default_rng(2).integers(1, 256, (3, 50, 64), dtype=np.uint8))
    preprocessor = build_preprocessor(config.input)
    square, frame = preprocessor(image)
    twice = F.interpolate(image[None].double(), scale_factor=2, mode="bilinear", align_corners=False)[0]
    assert not square[:, :14].any()
    assert not square[:, 114:].any()
    torch.testing.assert_close(square[:, 14:114].double(), twice, atol=1e-3, rtol=0)
    detections = Detections(
        boxes=torch.tensor([[[0.0, 14.0, 127.0, 113.0], [40.0, 34.0, 80.0, 54.0], [0.0, 0.0, 9.0, 9.0]]]),
        scores=torch.ones(1, 3),
        labels=torch.zeros(1, 3, dtype=torch.int64),
        valid=torch.ones(1, 3, dtype=torch.bool),
    )
    found = to_original(detections, 0, frame, config)
    # 40 * 63 / 127 = 19.8, 20 * 49 / 99 = 9.9, 80 * 63 / 127 + 1 = 40.7, 40 * 49 / 99 + 1 = 20.8; the third is border
    np.testing.assert_array_equal(found.boxes, [[0, 0, 64, 50], [20, 10, 41, 21]])
    # smaller images grow to the shorter side, larger ones shrink to the longer alone
    assert preprocessor.resized_size((50, 60)) == (100, 120)
    assert preprocessor.resized_size((120, 126)) == (120, 126)
    assert preprocessor.resized_size((200, 400)) == (64, 128)


def tiny_state() -> dict[str, Tensor]:
    return {name: torch.zeros(value.shape) for name, value in peer_weights().items()}


def test_what_the_file_and_its_config_say() -> None:
    state = tiny_state()
    assert recognises(state)
    table = "\nConfigurations:\nBACKBONE    resnet101\nIMAGE_MAX_DIM    1024\nMEAN_PIXEL      [123.7 116.8 103.9]\n"
    converted = convert_state(
        matterport.SYSTEM, state | {"optimizer_weights/x/y:0": torch.zeros(1)}, table + "RPN_NMS_THRESHOLD   0.6\n"
    )
    config = converted.config
    assert converted.skipped == ("optimizer_weights/x/y:0",)
    assert (config.input.canvas, config.num_classes, config.rpn.proposals.nms_iou) == (1024, CLASSES, 0.6)
    assert config.input.pixel_mean == (123.7, 116.8, 103.9)
    assert config.rpn.anchors.ratios == (2.0, 1.0, 0.5)  # theirs are width over height
    assert any("BACKBONE" in sentence for sentence in converted.notes)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("IMAGE_RESIZE_MODE=crop", "square"),
        ("RPN_ANCHOR_RATIOS=[1]", "anchor scores"),
        ("RPN_ANCHOR_RATIOS=[0,1,2]", "with config (--config) RPN_ANCHOR_RATIOS=[0,1,2]: its settings"),
        ("IMAGE_MAX_DIM=big", "a value such as 1024"),
        ("BBOX_STD_DEV=[1,1,1,1]", "BBOX_STD_DEV"),
    ],
)
def test_invalid_settings(words: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=re.escape(wrong)):
        convert_state(matterport.SYSTEM, tiny_state(), words)


def test_a_layer_that_lacks_or_is_strange() -> None:
    state = tiny_state()
    del state["mrcnn_mask/mrcnn_mask/kernel:0"]
    with pytest.raises(ValueError, match=r"some\.h5.*mrcnn_mask"):
        convert_state(matterport.SYSTEM, state, source="some.h5")
    state = tiny_state()
    norm = next(name for name in state if name.endswith("moving_variance:0"))
    del state[norm]
    with pytest.raises(ValueError, match=r"some\.h5: the norm of \S+ .* has no moving_variance"):
        convert_state(matterport.SYSTEM, state, source="some.h5")
    with pytest.raises(ValueError, match="strange"):
        convert_state(matterport.SYSTEM, tiny_state() | {"strange/strange/kernel:0": torch.zeros(1)})


@pytest.mark.compile
@torch.no_grad()
def test_one_graph_serves() -> None:
    converted = convert_state(
        matterport.SYSTEM, {name: torch.from_numpy(value) for name, value in peer_weights().items()}, WORDS
    )
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    pixels = torch.randint(0, 256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
    images = ImageBatch(pixels=pixels, sizes=torch.tensor([[SIDE, SIDE]]))
    torch._dynamo.reset()
    expected = detector.eval().predict(images)
    maps = Detector.features(detector, images)

    def given(detector: Detector, images: ImageBatch) -> dict[str, Tensor]:
        return maps

    with patch.object(Detector, "features", given):  # test_zoo.py compiles ResNets
        found = torch.compile(detector.predict, fullgraph=True, backend=FORWARD)(images)
    assert expected.valid.any()
    torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(found.masks, expected.masks, atol=1e-4, rtol=1e-4)
