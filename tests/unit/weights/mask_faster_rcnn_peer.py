"""mask-faster-rcnn and its ancestor at test time, as slow code written from their rules, with small weights."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from typing_extensions import override

CLASSES, ANCHORS = 3, 12
MEANS = np.array([102.9801, 115.9465, 122.7717])
WORDS = "TEST.SCALES=[90] TEST.MAX_SIZE=150 TEST.RPN_POST_NMS_TOP_N=30"


def peer_state(seed: int = 0) -> dict[str, Tensor]:
    """A small network's tensors by its names."""
    draw = torch.Generator().manual_seed(seed)
    state: dict[str, Tensor] = {}

    def conv(name: str, shape: tuple[int, ...], gain: float = 1.4, bias: bool = True) -> None:
        fan = shape[1] * int(np.prod(shape[2:]))
        state[f"{name}.weight"] = torch.randn(shape, generator=draw) * gain / fan**0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0], generator=draw) * 0.05

    def norm(name: str, channels: int, gain: float = 1.0) -> None:
        state[f"{name}.weight"] = gain * (1 + 0.1 * torch.randn(channels, generator=draw))
        state[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=draw)
        state[f"{name}.running_mean"] = 0.1 * torch.randn(channels, generator=draw)
        state[f"{name}.running_var"] = 0.5 + torch.rand(channels, generator=draw)

    conv("resnet.conv1", (64, 3, 7, 7), gain=0.02, bias=False)
    norm("resnet.bn1", 64)
    channels = 64
    for stage in (1, 2, 3, 4):
        width = 32 * 2**stage
        place = f"resnet.layer{stage}.0"
        for number, shape in enumerate(
            [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)], start=1
        ):
            conv(f"{place}.conv{number}", shape, bias=False)
            norm(f"{place}.bn{number}", shape[0], gain=0.3 if number == 3 else 1.0)
        conv(f"{place}.downsample.0", (4 * width, channels, 1, 1), gain=1.0, bias=False)
        norm(f"{place}.downsample.1", 4 * width)
        channels = 4 * width
    conv("resnet.fc", (1000, 2048))
    conv("rpn_net", (512, 1024, 3, 3))
    conv("rpn_cls_score_net", (2 * ANCHORS, 512, 1, 1), gain=2.0)
    conv("rpn_bbox_pred_net", (4 * ANCHORS, 512, 1, 1), gain=0.3)
    conv("cls_score_net", (CLASSES + 1, 2048), gain=4.0)
    conv("bbox_pred_net", (4 * (CLASSES + 1), 2048), gain=2.0)
    conv("mask_up_sampling", (2048, 256, 2, 2))
    state["mask_up_sampling.bias"] = torch.randn(256, generator=draw) * 0.05
    conv("mask_pred_net", (CLASSES + 1, 256, 1, 1), gain=3.0)
    return state


class Slow:
    """The rules of facts/chainer_fcis_refer.md, chapter 4, one image, box by box.

    `align` is POOLING_ALIGN, `max_pool` RESNET.MAX_POOL, `top` the RPN_TOP_N of TEST.MODE=top (0: with NMS).
    """

    def __init__(self, state: dict[str, Tensor], *, align: bool = False, max_pool: bool = False, top: int = 0) -> None:
        self.state, self.align, self.max_pool, self.top = state, align, max_pool, top
        self.input = (0, 0)  # (height, width) of the resized image

    def normed(self, x: Tensor, conv: str, bn: str, stride: int = 1, padding: int = 0) -> Tensor:
        s = self.state
        x = F.conv2d(x, s[f"{conv}.weight"], None, stride, padding)
        weight, bias = s[f"{bn}.weight"], s[f"{bn}.bias"]
        return F.batch_norm(x, s[f"{bn}.running_mean"], s[f"{bn}.running_var"], weight, bias, eps=1e-5)

    def layer(self, x: Tensor, stage: int, stride: int) -> Tensor:
        place = f"resnet.layer{stage}.0"
        y = F.relu(self.normed(x, f"{place}.conv1", f"{place}.bn1", stride))
        y = F.relu(self.normed(y, f"{place}.conv2", f"{place}.bn2", 1, 1))
        y = self.normed(y, f"{place}.conv3", f"{place}.bn3")
        return F.relu(y + self.normed(x, f"{place}.downsample.0", f"{place}.downsample.1", stride))

    def crop(self, net: Tensor, rois: np.ndarray) -> Tensor:
        high, wide = self.input if self.align else net.shape[2:]
        x1, y1, x2, y2 = (torch.from_numpy(rois if self.align else rois / 16).float()[:, i] for i in range(4))
        theta = torch.zeros(len(rois), 2, 3)
        theta[:, 0, 0], theta[:, 0, 2] = (x2 - x1) / (wide - 1), (x1 + x2 - wide + 1) / (wide - 1)
        theta[:, 1, 1], theta[:, 1, 2] = (y2 - y1) / (high - 1), (y1 + y2 - high + 1) / (high - 1)
        side = 14 if self.align or self.max_pool else 7
        grid = F.affine_grid(theta, [len(rois), 1, side, side], align_corners=True)
        samples = F.grid_sample(net.expand(len(rois), -1, -1, -1), grid, align_corners=True)
        return F.max_pool2d(samples, 2, 2) if side == 14 else samples

    def tail(self, crops: Tensor) -> Tensor:
        """The layers of the head: maps (N, F, 7, 7), or vectors (N, F)."""
        return self.layer(crops, 4, 1)

    def heads(self, net: Tensor, rois: np.ndarray) -> tuple[Tensor, Tensor, Tensor | None]:
        s = self.state
        maps = self.tail(self.crop(net, rois))
        mean = maps.mean((2, 3)) if maps.ndim == 4 else maps
        scores = F.linear(mean, s["cls_score_net.weight"], s["cls_score_net.bias"]).softmax(1)
        deltas = F.linear(mean, s["bbox_pred_net.weight"], s["bbox_pred_net.bias"]).view(len(rois), -1, 4)
        deltas = deltas * torch.tensor([0.1, 0.1, 0.2, 0.2])
        if "mask_up_sampling.weight" not in s:
            return scores, deltas, None
        up = F.relu(F.conv_transpose2d(maps, s["mask_up_sampling.weight"], s["mask_up_sampling.bias"], stride=2))
        masks = F.conv2d(up, s["mask_pred_net.weight"], s["mask_pred_net.bias"]).sigmoid()
        return scores, deltas, masks

    def features(self, image: np.ndarray, scale: float) -> Tensor:
        """The map (1, 1024, H, W) that regions are pooled from, of an image (H, W, 3) RGB uint8."""
        blob = resized(image[:, :, ::-1].astype(np.float64) - MEANS, scale)
        self.input = blob.shape[:2]
        return self.backbone(torch.from_numpy(blob).float().permute(2, 0, 1)[None])

    def backbone(self, x: Tensor) -> Tensor:
        x = F.relu(self.normed(x, "resnet.conv1", "resnet.bn1", 2, 3))
        x = F.max_pool2d(x, 3, 2, 1)
        for stage, stride in ((1, 1), (2, 2), (3, 2)):
            x = self.layer(x, stage, stride)
        return x

    def detect(self, image: np.ndarray, min_size: int, max_size: int, topk: int):
        """Boxes with their last pixels, labels, scores and masks (N, H, W) of an image (H, W, 3) RGB uint8."""
        s, size = self.state, image.shape[:2]
        scale = min_size / min(size)
        if round(scale * max(size)) > max_size:
            scale = max_size / max(size)
        x = self.features(image, scale)
        hidden = F.relu(F.conv2d(x, s["rpn_net.weight"], s["rpn_net.bias"], padding=1))
        logits = F.conv2d(hidden, s["rpn_cls_score_net.weight"], s["rpn_cls_score_net.bias"])[0]
        deltas = F.conv2d(hidden, s["rpn_bbox_pred_net.weight"], s["rpn_bbox_pred_net.bias"])[0]
        rows, columns = logits.shape[1:]
        objects = logits.view(2, ANCHORS, rows, columns).softmax(0)[1]
        moved_anchors: list[np.ndarray] = []
        objectness: list[float] = []
        for row in range(rows):
            for column in range(columns):
                for number, anchor in enumerate(legacy_anchors()):
                    moved = anchor + np.array([column, row, column, row]) * 16
                    delta = deltas[4 * number : 4 * number + 4, row, column].double().numpy()
                    moved_anchors.append(decoded(moved, delta))
                    objectness.append(objects[number, row, column].item())
        boxes = clipped(np.array(moved_anchors), tuple(round(side * scale) for side in size))
        best = np.argsort(-np.array(objectness), kind="stable")[: self.top].tolist()
        rois = boxes[best if self.top else suppressed(boxes, np.array(objectness), 0.7)[:topk]]
        scores, deltas, _ = self.heads(x, rois)
        found: list[tuple[np.ndarray, int, float]] = []
        for label in range(1, CLASSES + 1):
            own = np.array(
                [decoded(r / scale, d) for r, d in zip(rois, deltas[:, label].double().numpy(), strict=True)]
            )
            own = clipped(own, size)
            of_class = scores[:, label].numpy()
            found += [(own[i], label - 1, of_class[i]) for i in suppressed(own, of_class, 0.3) if of_class[i] > 0]
        limit = sorted((f[2] for f in found), reverse=True)[:100][-1]
        found = [f for f in found if f[2] >= limit]
        boxes, labels = np.array([f[0] for f in found]), np.array([f[1] for f in found])
        _, _, masks = self.heads(x, boxes * scale)
        if masks is None:
            return boxes, labels, np.array([f[2] for f in found]), None
        own = masks[torch.arange(len(labels)), torch.from_numpy(labels) + 1].numpy()
        pasted = np.stack([paste(mask, box, size) for mask, box in zip(own, boxes, strict=True)])
        return boxes, labels, np.array([f[2] for f in found]), pasted


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    """cv2.resize(fx=fy=scale, INTER_LINEAR) of floats."""
    sides = [round(side * scale) for side in image.shape[:2]]
    for axis, (old, new) in enumerate(zip(image.shape[:2], sides, strict=True)):
        place = (np.arange(new) + 0.5) / scale - 0.5
        low = np.floor(place).astype(int)
        part = (place - low).reshape([-1 if i == axis else 1 for i in range(3)])
        first, second = np.clip(low, 0, old - 1), np.clip(low + 1, 0, old - 1)
        image = np.take(image, first, axis) * (1 - part) + np.take(image, second, axis) * part
    return image


def legacy_anchors() -> np.ndarray:
    """The table of the first R-CNNs: ratios outer, scales inner, both ends included."""
    base, anchors = 16, list[list[float]]()
    for ratio in (0.5, 1, 2):
        width = np.round(np.sqrt(base * base / ratio))
        height = np.round(width * ratio)
        for scale in (4, 8, 16, 32):
            wide, high = width * scale, height * scale
            anchors.append(
                [7.5 - 0.5 * (wide - 1), 7.5 - 0.5 * (high - 1), 7.5 + 0.5 * (wide - 1), 7.5 + 0.5 * (high - 1)]
            )
    return np.array(anchors)


def decoded(box: np.ndarray, delta: np.ndarray) -> np.ndarray:
    wide, high = box[2] - box[0] + 1, box[3] - box[1] + 1
    x, y = delta[0] * wide + box[0] + 0.5 * wide, delta[1] * high + box[1] + 0.5 * high
    wide, high = np.exp(delta[2]) * wide, np.exp(delta[3]) * high
    return np.array([x - 0.5 * wide, y - 0.5 * high, x + 0.5 * wide, y + 0.5 * high])


def clipped(boxes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    last = np.array([shape[1], shape[0], shape[1], shape[0]]) - 1
    return np.clip(boxes, 0, last)


def suppressed(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Greedy NMS: kept indices, best first, with inclusive boxes."""
    area = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    kept: list[int] = []
    while order:
        best = order.pop(0)
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        both = (high - low + 1).clip(0).prod(1)
        order = [i for i, b in zip(order, both, strict=True) if b / (area[best] + area[i] - b) <= threshold]
    return kept


def paste(mask: np.ndarray, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """scipy's imresize: stretched to 0..255, Pillow's bilinear; above 122."""
    x1, y1, x2, y2 = box
    high, wide = int(y2 - y1 + 1), int(x2 - x1 + 1)
    low, top = mask.min() * 255, mask.max() * 255
    grey = np.clip((mask * 255 - low) * (255 / (top - low)) + 0.5, 0, 255).astype(np.uint8)
    canvas = np.zeros(size, bool)
    part = np.asarray(Image.fromarray(grey).resize((wide, high), Image.Resampling.BILINEAR)) > 122
    canvas[int(y1) : int(y1) + high, int(x1) : int(x1) + wide] = part
    return canvas


class SlowVGG(Slow):
    """VGG-16 of pytorch-faster-rcnn: torchvision's layers, without the last pooling; regions become 4096 numbers."""

    @override
    def backbone(self, x: Tensor) -> Tensor:
        for layer in range(30):
            name = f"vgg.features.{layer}"
            if layer in (4, 9, 16, 23):
                x = F.max_pool2d(x, 2, 2)
            elif f"{name}.weight" in self.state:
                x = F.relu(F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], padding=1))
        return x

    @override
    def tail(self, crops: Tensor) -> Tensor:
        x = crops.flatten(1)
        for layer in (0, 3):
            name = f"vgg.classifier.{layer}"
            x = F.relu(F.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"]))
        return x


class SlowMobileNet(Slow):
    """MobileNet v1 of pytorch-faster-rcnn."""

    def unit(self, x: Tensor, name: str, stride: int, groups: int = 1) -> Tensor:
        s = self.state
        padding = s[f"{name}.0.weight"].shape[-1] // 2
        x = F.conv2d(x, s[f"{name}.0.weight"], None, stride, padding, groups=groups)
        mean, variance = s[f"{name}.1.running_mean"], s[f"{name}.1.running_var"]
        x = F.batch_norm(x, mean, variance, s[f"{name}.1.weight"], s[f"{name}.1.bias"], eps=1e-5)
        return F.relu6(x)

    def separable(self, x: Tensor, number: int) -> Tensor:
        x = self.unit(x, f"mobilenet.Conv2d_{number}.depthwise", 2 if number in (2, 4, 6) else 1, x.shape[1])
        return self.unit(x, f"mobilenet.Conv2d_{number}.pointwise", 1)

    @override
    def backbone(self, x: Tensor) -> Tensor:
        x = self.unit(x, "mobilenet.Conv2d_0", 2)
        for number in range(1, 12):
            x = self.separable(x, number)
        return x

    @override
    def tail(self, crops: Tensor) -> Tensor:
        return self.separable(self.separable(crops, 12), 13)


def faster_state(network: str) -> dict[str, Tensor]:
    """Tensors by pytorch-faster-rcnn's names: VGG-16 with 64 features, or MobileNet with 1/4 of its width."""
    draw = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}

    def layer(name: str, *shape: int, gain: float = 1.4, bias: bool = True) -> None:
        state[f"{name}.weight"] = torch.randn(shape, generator=draw) * gain / int(np.prod(shape[1:])) ** 0.5
        if bias:
            state[f"{name}.bias"] = torch.randn(shape[0], generator=draw) * 0.05

    def unit(name: str, *shape: int) -> None:
        layer(f"{name}.0", *shape, bias=False)
        state[f"{name}.1.weight"] = 1 + 0.1 * torch.randn(shape[0], generator=draw)
        state[f"{name}.1.bias"] = 0.3 + 0.1 * torch.randn(shape[0], generator=draw)
        state[f"{name}.1.running_mean"] = 0.1 * torch.randn(shape[0], generator=draw)
        state[f"{name}.1.running_var"] = 0.5 + torch.rand(shape[0], generator=draw)
        state[f"{name}.1.num_batches_tracked"] = torch.tensor(0)

    if network == "vgg16":
        places, widths = (
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
            (64,) * 2 + (128,) * 2 + (256,) * 3 + (512,) * 6,
        )
        for place, (before, after) in zip(places, pairwise((3, *widths)), strict=True):
            layer(f"vgg.features.{place}", after, before, 3, 3, gain=0.05 if place == 0 else 1.4)
        layer("vgg.classifier.0", 64, 512 * 49)
        layer("vgg.classifier.3", 64, 64)
        channels, features = 512, 64
    else:
        widths = [int(width / 4) for width in (64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)]
        unit("mobilenet.Conv2d_0", 8, 3, 3, 3)
        state["mobilenet.Conv2d_0.0.weight"] *= 0.02
        for number, (before, after) in enumerate(pairwise((8, *widths)), start=1):
            unit(f"mobilenet.Conv2d_{number}.depthwise", before, 1, 3, 3)
            unit(f"mobilenet.Conv2d_{number}.pointwise", after, before, 1, 1)
        channels, features = 128, 256
    layer("rpn_net", 512, channels, 3, 3, gain=0.4)  # larger logits would saturate, and equal scores have no order
    layer("rpn_cls_score_net", 2 * ANCHORS, 512, 1, 1, gain=2.0)
    layer("rpn_bbox_pred_net", 4 * ANCHORS, 512, 1, 1, gain=0.3)
    layer("cls_score_net", CLASSES + 1, features, gain=1.5)
    layer("bbox_pred_net", 4 * (CLASSES + 1), features, gain=0.3)
    return state
