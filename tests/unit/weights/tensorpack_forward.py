"""tensorpack's Mask R-CNN at test time, written from its rules, for one image, on the tensors of its files."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor


class Forward:
    """`weights` by tensorpack's names; `detect` follows one image (H, W, 3) BGR to boxes, scores, labels and masks.

    It has at most `topk` proposals and `results` detections.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        *,
        tf_pad: bool = False,
        stride_1x1: bool = False,
        topk: int = 60,
        results: int = 20,
    ) -> None:
        self.weights = {name: torch.from_numpy(value) for name, value in weights.items()}
        self.first, self.second = (0, 1) if tf_pad else (1, 0)  # which side gets the larger half of the padding
        self.stride_1x1 = stride_1x1
        self.pyramid = "fpn/lateral_1x1_c2/W" in weights
        self.cascade = "cascade_rcnn_stage1/outputs/class/W" in weights
        self.topk, self.results = topk, results

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        weight = self.weights[f"{name}/W"].permute(3, 2, 0, 1)
        bias = self.weights.get(f"{name}/b")
        kernel = weight.shape[-1]
        if stride == 2 and kernel > 1:
            half = (kernel - 1) // 2  # three left and two right of a kernel of seven, or the other way round
            pad = [half - self.second, half - self.first]
            x = F.pad(x, (pad[0], pad[1], pad[0], pad[1]))
            return F.conv2d(x, weight, bias, 2)
        return F.conv2d(x, weight, bias, stride, kernel // 2)

    def norm(self, x: Tensor, name: str, kind: str) -> Tensor:
        if kind == "none":
            return x
        gamma, beta = self.weights[f"{name}/gamma"], self.weights[f"{name}/beta"]
        if kind == "gn":
            return F.group_norm(x, 32, gamma, beta, 1e-5)
        mean, var = self.weights[f"{name}/mean/EMA"], self.weights[f"{name}/variance/EMA"]
        return F.batch_norm(x, mean, var, gamma, beta, eps=1e-5)

    def block(self, x: Tensor, name: str, stride: int) -> Tensor:
        kind = self.kind
        shortcut = x
        if f"{name}/convshortcut/W" in self.weights:
            cut = x[:, :, :-1, :-1] if stride == 2 and not self.pyramid else x
            shortcut = self.normed(cut, f"{name}/convshortcut", stride, kind)
        y = x[:, :, :-1, :-1] if self.stride_1x1 and stride == 2 else x
        y = F.relu(self.normed(y, f"{name}/conv1", stride if self.stride_1x1 else 1, kind))
        y = F.relu(self.normed(y, f"{name}/conv2", 1 if self.stride_1x1 else stride, kind))
        return F.relu(self.normed(y, f"{name}/conv3", 1, kind) + shortcut)

    def normed(self, x: Tensor, name: str, stride: int, kind: str) -> Tensor:
        return self.norm(self.conv(x, name, stride), f"{name}/{kind}", kind)

    @property
    def kind(self) -> str:
        return "bn" if "conv0/bn/gamma" in self.weights else "gn" if "conv0/gn/gamma" in self.weights else "none"

    def group(self, x: Tensor, number: int) -> Tensor:
        block = 0
        while f"group{number}/block{block}/conv1/W" in self.weights:
            x = self.block(x, f"group{number}/block{block}", 2 if block == 0 and number > 0 else 1)
            block += 1
        return x

    def backbone(self, image: np.ndarray) -> list[Tensor]:
        mean = np.array([103.53, 116.28, 123.675], np.float32)
        std = np.array([57.375, 57.12, 58.395], np.float32)
        x = torch.from_numpy((image.astype(np.float32) - mean) / std).permute(2, 0, 1)[None]
        if self.pyramid:
            x = F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32))
        x = F.relu(self.normed(x, "conv0", 2, self.kind))
        x = F.pad(x, (self.first, self.second, self.first, self.second))
        x = F.max_pool2d(x, 3, 2)
        maps = []
        for number in range(4 if self.pyramid else 3):
            x = self.group(x, number)
            maps.append(x)
        return maps

    def fpn(self, maps: list[Tensor]) -> list[Tensor]:
        laterals = [self.fpn_conv(x, "lateral_1x1_c", "gn_c", level) for level, x in enumerate(maps, start=2)]
        for level in (2, 1, 0):
            up = laterals[level + 1].repeat_interleave(2, 2).repeat_interleave(2, 3)
            laterals[level] = laterals[level] + up
        outputs = [self.fpn_conv(x, "posthoc_3x3_p", "gn_p", level) for level, x in enumerate(laterals, start=2)]
        return [*outputs, outputs[-1][:, :, ::2, ::2]]

    def fpn_conv(self, x: Tensor, name: str, norm: str, level: int) -> Tensor:
        x = self.conv(x, f"fpn/{name}{level}")
        gamma = f"fpn/{norm}{level}/gamma"
        return self.norm(x, gamma.removesuffix("/gamma"), "gn") if gamma in self.weights else x

    def anchored(self, maps: list[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Logits (A,), deltas (A, 4) and anchors (A, 4) of each level."""
        if self.pyramid:
            levels = [(x, 4 * 2**level, [32 * 2**level]) for level, x in enumerate(maps)]
        else:
            levels = [(maps[0], 16, [32, 64, 128, 256, 512])]
        found = []
        for x, stride, sides in levels:
            hidden = F.relu(self.conv(x, "rpn/conv0"))
            logits = self.conv(hidden, "rpn/class")[0].permute(1, 2, 0).flatten()
            deltas = self.conv(hidden, "rpn/box")[0].permute(1, 2, 0).reshape(-1, 4)
            anchors = []
            for row in range(x.shape[2]):
                for column in range(x.shape[3]):
                    for side in sides:
                        for ratio in (0.5, 1.0, 2.0):
                            width = math.sqrt(side * side / ratio)
                            height = ratio * width
                            cx, cy = column * stride, row * stride
                            anchors.append([cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2])
            found.append((logits, deltas, torch.tensor(anchors)))
        return found

    def proposals(self, maps: list[Tensor], size: tuple[int, int]) -> Tensor:
        boxes: list[Tensor] = []
        scores: list[Tensor] = []
        for logits, deltas, anchors in self.anchored(maps):
            best, index = logits.topk(min(len(logits), 120 if not self.pyramid else self.topk))
            moved = clip(self.decode(deltas[index], anchors[index], (1, 1, 1, 1)), size)
            keep = torchvision.ops.nms(moved, best, 0.7)[: self.topk]
            boxes.append(moved[keep])
            scores.append(best[keep])
        order = torch.cat(scores).argsort(descending=True)[: self.topk]
        return torch.cat(boxes)[order]

    def decode(self, deltas: Tensor, boxes: Tensor, weights: tuple[float, ...]) -> Tensor:
        """Deltas (N, ..., 4) from boxes (N, 4)."""
        boxes = boxes.view(len(boxes), *[1] * (deltas.ndim - 2), 4)
        wide, high = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        clamp = math.log((1344 if self.pyramid else 1333) / 16)
        t = deltas / torch.tensor(weights, dtype=torch.float32)
        cx = t[..., 0] * wide + (boxes[..., 0] + boxes[..., 2]) / 2
        cy = t[..., 1] * high + (boxes[..., 1] + boxes[..., 3]) / 2
        w, h = t[..., 2].clamp(max=clamp).exp() * wide, t[..., 3].clamp(max=clamp).exp() * high
        return torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], -1)

    def pool(self, maps: list[Tensor], boxes: Tensor, size: int) -> Tensor:
        if not self.pyramid:
            return align(maps[0], boxes, size, 1 / 16)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        level = (4 + torch.log2(area.sqrt() / 224 + 1e-6)).floor().clamp(2, 5)
        pooled = torch.zeros(len(boxes), maps[0].shape[1], size, size)
        for number in (2, 3, 4, 5):
            mine = level == number
            pooled[mine] = align(maps[number - 2], boxes[mine], size, 1 / 2**number)
        return pooled

    def convs(self, x: Tensor, name: str, word: str) -> Tensor:
        for number in range(4):
            x = F.relu(self.conv(x, f"{name}/{word}{number}"))
            if f"{name}/gn{number}/gamma" in self.weights:
                x = self.norm(x, f"{name}/gn{number}", "gn")
        return x

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}/W"] + self.weights[f"{name}/b"]

    def head(self, x: Tensor, name: str) -> Tensor:
        if f"{name}/conv0/W" in self.weights:
            return F.relu(self.linear(self.convs(x, name, "conv").flatten(1), f"{name}/fc"))
        return F.relu(self.linear(F.relu(self.linear(x.flatten(1), f"{name}/fc6")), f"{name}/fc7"))

    def classify(self, maps: list[Tensor], boxes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Boxes (N, K + 1, 4) and scores (N, K + 1), background first."""
        if self.cascade:
            scores = []
            for stage in (1, 2, 3):
                x = self.head(self.pool(maps, boxes, 7), f"cascade_rcnn_stage{stage}/head")
                scores.append(self.linear(x, f"cascade_rcnn_stage{stage}/outputs/class").softmax(1))
                deltas = self.linear(x, f"cascade_rcnn_stage{stage}/outputs/box")
                boxes = clip(self.decode(deltas, boxes, tuple(stage * w for w in (10, 10, 5, 5))), size)
            mean = torch.stack(scores).mean(0)
            return boxes[:, None].expand(-1, mean.shape[1], -1), mean
        if self.pyramid:
            x, name = self.head(self.pool(maps, boxes, 7), "fastrcnn"), "fastrcnn/outputs"
        else:
            x, name = self.group(self.pool(maps, boxes, 14), 3).mean((2, 3)), "fastrcnn"
        deltas = self.linear(x, f"{name}/box").unflatten(1, (-1, 4))
        moved = clip(self.decode(deltas, boxes, (10, 10, 5, 5)), size)
        return moved, self.linear(x, f"{name}/class").softmax(1)

    def detect(self, image: np.ndarray) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        size = image.shape[:2]
        maps = self.backbone(image)
        maps = self.fpn(maps) if self.pyramid else maps[-1:]
        boxes, scores = self.classify(maps, self.proposals(maps, size), size)
        where, label = (scores[:, 1:] > 0.05).nonzero(as_tuple=True)
        boxes, scores = boxes[where, label + 1], scores[where, label + 1]
        keep = torchvision.ops.batched_nms(boxes, scores, label, 0.5)[: self.results]
        boxes, scores, label = boxes[keep], scores[keep], label[keep]
        pooled = self.pool(maps, boxes, 14)
        x = self.convs(pooled, "maskrcnn", "fcn") if self.pyramid else self.group(pooled, 3)
        kernel = self.weights["maskrcnn/deconv/W"].permute(3, 2, 0, 1)
        x = F.relu(F.conv_transpose2d(x, kernel, self.weights["maskrcnn/deconv/b"], stride=2))
        logits = self.conv(x, "maskrcnn/conv")
        return boxes, scores, label, logits[torch.arange(len(label)), label].sigmoid()

    def losses(self, image: np.ndarray, truth: Tensor, labels: Tensor, masks: Tensor) -> dict[str, float]:
        """Means over every anchor and region that has a label; `masks` (G, H, W) bool, `labels` from 1."""
        size = image.shape[:2]
        maps = self.backbone(image)
        maps = self.fpn(maps) if self.pyramid else maps[-1:]
        logits, deltas, anchors = (torch.cat(part) for part in zip(*self.anchored(maps), strict=True))
        limit = torch.tensor([size[1], size[0]])
        inside = (anchors[:, :2] >= 0).all(1) & (anchors[:, 2:] <= limit).all(1)
        iou = torchvision.ops.box_iou(anchors, truth) * inside[:, None] - 1.0 * ~inside[:, None]
        label = torch.full_like(logits, -1)
        label[(iou == iou.max(0)[0]).any(1)] = 1
        label[iou.max(1)[0] >= 0.7] = 1
        label[iou.max(1)[0] < 0.3] = 0  # last: it overrules an object's best anchor
        label[~inside] = -1
        entropy = F.binary_cross_entropy_with_logits(logits, label.clamp(min=0), reduction="none")[label >= 0].sum()
        own = label == 1
        moved = (deltas[own] - encode(truth[iou[own].argmax(1)], anchors[own])).abs()
        rpn_box = torch.where(moved < 1 / 9, 4.5 * moved**2, moved - 1 / 18).sum()

        boxes = torch.cat([self.proposals(maps, size), truth])
        best, match = torchvision.ops.box_iou(boxes, truth).max(1)
        object_ = best >= 0.5
        expected = torch.where(object_, labels[match], 0)
        if self.pyramid:
            x, name = self.head(self.pool(maps, boxes, 7), "fastrcnn"), "fastrcnn/outputs"
        else:
            x, name = self.group(self.pool(maps, boxes, 14), 3).mean((2, 3)), "fastrcnn"
        scores, shifts = self.linear(x, f"{name}/class"), self.linear(x, f"{name}/box").unflatten(1, (-1, 4))
        weighted = encode(truth[match], boxes) * torch.tensor([10.0, 10, 5, 5])
        moved = (shifts[torch.arange(len(boxes)), expected] - weighted).abs()[object_].sum()

        pooled = self.pool(maps, boxes[object_], 14)
        x = self.convs(pooled, "maskrcnn", "fcn") if self.pyramid else self.group(pooled, 3)
        kernel = self.weights["maskrcnn/deconv/W"].permute(3, 2, 0, 1)
        x = F.relu(F.conv_transpose2d(x, kernel, self.weights["maskrcnn/deconv/b"], stride=2))
        mask = self.conv(x, "maskrcnn/conv")[torch.arange(len(x)), expected[object_] - 1]
        side = mask.shape[-1]
        targets = torch.zeros_like(mask)
        for row, (box, owner) in enumerate(zip(boxes[object_].tolist(), match[object_].tolist(), strict=True)):
            x1, y1, x2, y2 = box
            for i in range(side):
                for j in range(side):
                    y, x0 = y1 + (i + 0.5) * (y2 - y1) / side - 0.5, x1 + (j + 0.5) * (x2 - x1) / side - 0.5
                    if not (0 <= y <= size[0] - 1 and 0 <= x0 <= size[1] - 1):
                        continue  # crop_and_resize has nothing there
                    top, left = min(int(y), size[0] - 2), min(int(x0), size[1] - 2)
                    square = masks[owner, top : top + 2, left : left + 2].double()
                    across = square[:, 0] * (1 - (x0 - left)) + square[:, 1] * (x0 - left)
                    targets[row, i, j] = across[0] * (1 - (y - top)) + across[1] * (y - top)
        return {
            "rpn_objectness": entropy.item() / int((label >= 0).sum()),
            "rpn_box": rpn_box.item() / int((label >= 0).sum()),
            "box_class": F.cross_entropy(scores, expected).item(),
            "box_delta": moved.item() / len(boxes),
            "mask": F.binary_cross_entropy_with_logits(mask, targets).item(),
        }


def encode(truth: Tensor, boxes: Tensor) -> Tensor:
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    across, down = truth[:, 2] - truth[:, 0], truth[:, 3] - truth[:, 1]
    x = ((truth[:, 0] + truth[:, 2]) - (boxes[:, 0] + boxes[:, 2])) / 2 / wide
    y = ((truth[:, 1] + truth[:, 3]) - (boxes[:, 1] + boxes[:, 3])) / 2 / high
    return torch.stack([x, y, (across / wide).log(), (down / high).log()], 1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    limit = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    return torch.minimum(boxes.clamp(min=0), limit)


def align(maps: Tensor, boxes: Tensor, size: int, scale: float) -> Tensor:
    return torchvision.ops.roi_align(maps, [boxes], size, scale, 2, aligned=True)
