"""D2Go's detectors (../shared/weights/d2go): our network against one that runs the file's own list of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints
from torchvision.ops import batched_nms, clip_boxes_to_image, nms, roi_align

from rcnn.models import Detector
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.weights.checkpoint import empty_detector, save_checkpoint
from rcnn.weights.systems.known import convert
from tests.deviations import assert_at_most, assert_within
from tests.narrow import present

NAMES = ("mask", "faster", "keypoint")


def weights(shared: Path, name: str) -> Path:
    return shared / "weights" / "d2go" / f"{name}_rcnn_fbnetv3a_dsmask_C4_fp32_dequantised.pth"


class Reference:
    """The README of the weights, in plain torch, one image at a time."""

    def __init__(self, path: Path) -> None:
        file = torch.load(path, weights_only=True)
        self.state, self.meta, self.blocks, self.buffers = (file[key] for key in ("model", "meta", "blocks", "buffers"))

    def layer(self, name: str, x: Tensor) -> Tensor:
        weight, bias, said = self.state[f"{name}.weight"], self.state[f"{name}.bias"], self.meta[name]
        if said["kind"] == "linear":
            x = F.linear(x, weight, bias)
        else:
            x = F.conv2d(x, weight, bias, said["stride"], weight.shape[-1] // 2, groups=said["groups"])
        return x.relu() if said["relu"] else x

    def run(self, prefix: str, x: Tensor) -> Tensor:
        """All layers with this prefix, block by block."""
        blocks: dict[str, list[str]] = {}
        for name in self.meta:
            if name.startswith(prefix):
                blocks.setdefault(name.rsplit(".", 2)[0] if name.endswith(("w.conv", "l.conv")) else name, []).append(
                    name
                )
        for block, layers in blocks.items():
            said, y = self.blocks.get(block, {"res": False, "up": False}), x
            for name in layers:
                if name.endswith("dw.conv") and said["up"]:
                    y = F.interpolate(y, scale_factor=2, mode="nearest")
                y = self.layer(name, y)
            x = x + y if said["res"] else y
        return x

    def decode(self, deltas: Tensor, boxes: Tensor, weights: tuple[float, ...]) -> Tensor:
        size, center = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
        moved = deltas.view(len(boxes), -1, 4) / torch.tensor(weights)
        center = center[:, None] + moved[..., :2] * size[:, None]
        half = moved[..., 2:].clamp(max=np.log(1000 / 16)).exp() * size[:, None] / 2
        return torch.cat([center - half, center + half], -1)

    @torch.no_grad()
    def detect(self, image: np.ndarray) -> dict[str, Tensor]:
        """Detections in an RGB image (H, W, 3): boxes, scores, labels, masks, in pixels of the network's input."""
        x = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
        scale = 320 / min(x.shape[2:])
        size = int(x.shape[2] * scale + 0.5), int(x.shape[3] * scale + 0.5)
        x = F.interpolate(x, size=size, mode="bilinear", align_corners=True)
        x = self.run("backbone.", (x - self.buffers["pixel_mean"]) / self.buffers["pixel_std"])

        head = "proposal_generator.rpn_head."
        hidden = self.run(f"{head}rpn_feature", x)
        logits = self.layer(f"{head}rpn_regressor.cls_logits", hidden).permute(0, 2, 3, 1).flatten()
        deltas = self.layer(f"{head}rpn_regressor.bbox_pred", hidden).permute(0, 2, 3, 1).reshape(-1, 4)
        rows, columns = torch.meshgrid(*(torch.arange(n) * 16.0 for n in x.shape[2:]), indexing="ij")
        shift = torch.stack([columns, rows, columns, rows], -1).reshape(-1, 1, 4)
        anchors = (shift + self.buffers["proposal_generator.anchor_generator.cell_anchors.0"]).reshape(-1, 4)
        best, index = logits.topk(min(1000, len(logits)))
        boxes = self.decode(deltas[index], anchors[index], (1, 1, 1, 1))[:, 0]
        boxes = clip_boxes_to_image(boxes, size)
        full = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
        boxes = boxes[full][nms(boxes[full], best[full], 0.7)[:30]]

        pooled = roi_align(x, [boxes], 6, 1 / 16, 0, aligned=True)
        hidden = self.run("roi_heads.box_head", pooled).mean((2, 3))
        scores = self.layer("roi_heads.box_predictor.cls_score", hidden).softmax(1)[:, :-1]
        boxes = self.decode(self.layer("roi_heads.box_predictor.bbox_pred", hidden), boxes, (10, 10, 5, 5))
        boxes = clip_boxes_to_image(boxes, size)
        place, labels = (scores > 0.05).nonzero().T
        boxes, scores = boxes[place, labels], scores[place, labels]
        keep = batched_nms(boxes, scores, labels, 0.5)[:100]
        found = {"boxes": boxes[keep], "scores": scores[keep], "labels": labels[keep]}
        if "roi_heads.mask_head.predictor.mask_fcn_logits" in self.meta:
            pooled = roi_align(x, [found["boxes"]], 14, 1 / 16, 0, aligned=True)
            masks = self.run("roi_heads.mask_head", pooled).sigmoid()
            found["masks"] = masks[torch.arange(len(masks)), found["labels"]]
        if "roi_heads.keypoint_head.predictor.kps_score_lowres.pwl.conv" in self.meta:
            pooled = roi_align(x, [found["boxes"]], 6, 1 / 16, 0, aligned=True)  # D2Go's config file
            found["keypoints"] = heatmaps_to_keypoints(self.run("roi_heads.keypoint_head", pooled), found["boxes"])[0]
        return found


@pytest.fixture(scope="module")
def photos(shared: Path) -> list[Path]:
    found = sorted((shared / "data/coco449/val2017").glob("*.jpg"))[:6]
    assert len(found) == 6
    return found


def converted(shared: Path, name: str, *overrides: str) -> tuple[Detector, tuple[str, ...]]:
    given = convert(weights(shared, name))
    detector = empty_detector(override(given.config, overrides))
    detector.load_state_dict(given.state)
    return detector.eval(), given.classes


@pytest.mark.parametrize("name", NAMES)
def test_detections_equal_those_of_the_files_own_layers(shared: Path, photos: list[Path], name: str) -> None:
    reference = Reference(weights(shared, name))
    detector, classes = converted(shared, name)
    predictor = Predictor(detector, classes=classes, device="cpu")
    found = 0
    for photo in photos:
        image = np.array(Image.open(photo).convert("RGB"))
        expected = reference.detect(image)
        resized, frame = predictor.prepare(photo)
        size = frame.original
        assert size == image.shape[:2]
        ours = predictor.detect([resized], [frame])[0]
        assert len(ours) == len(expected["scores"])
        scale = np.array([size[1] / resized.shape[2], size[0] / resized.shape[1]] * 2)
        boxes = expected["boxes"].numpy() * scale
        distance = np.abs(ours.boxes[None] - boxes[:, None]).max(-1)
        distance = np.where(ours.labels[None] == expected["labels"].numpy()[:, None], distance, np.inf)
        order = distance.argmin(1)
        assert sorted(order) == list(range(len(order)))
        assert_within("detection boxes", ours.boxes[order], boxes, atol=0.05)
        assert_within("detection scores", ours.scores[order], expected["scores"], atol=1e-4)
        if "masks" in expected:
            assert ours.box_masks is not None
            assert_within("mask probabilities", ours.box_masks[order], expected["masks"], atol=1e-3)
        if "keypoints" in expected:
            assert ours.keypoints is not None
            off = np.abs(ours.keypoints[order][..., :2] - expected["keypoints"][..., :2].numpy() * scale[:2]).max(-1)
            # between two peaks of equal height rounding decides
            assert_at_most("share of keypoints off by over 0.1 px", float((off >= 0.1).mean()), 0.01)
        found += len(order)
    assert found > 15


def test_a_converted_checkpoint_predicts_without_anything_else(
    shared: Path, photos: list[Path], tmp_path: Path
) -> None:
    detector, classes = converted(shared, "mask")
    save_checkpoint(tmp_path / "m", detector, detector.config, classes, {"converted_from": "test"})
    ours = Predictor.from_checkpoint(tmp_path / "m", device="cpu").predict(photos[:1])[0]
    again = Predictor(detector, classes=classes, device="cpu").predict(photos[:1])[0]
    np.testing.assert_array_equal(ours.boxes, again.boxes)
    np.testing.assert_array_equal(ours.scores, again.scores)
    assert len(ours) > 3


def test_the_keypoint_detector_is_of_persons(shared: Path) -> None:
    given = convert(weights(shared, "keypoint"))
    assert given.classes == ("person",)
    assert given.config.name == "keypoint_rcnn_fbnetv3a_c4"
    assert present(given.config.keypoint).pooler.size == 6  # 14, as for masks, costs 10 points of keypoint AP
    assert present(given.config.keypoint).names[16] == "right_ankle"
    assert given.config.input.pixel_std == (57.375, 57.12, 58.395)
    assert convert(weights(shared, "mask")).classes[79] == "toothbrush"


def test_a_layer_that_is_not_as_we_build_it_is_named(shared: Path, tmp_path: Path) -> None:
    file: dict[str, Any] = torch.load(weights(shared, "faster"), weights_only=True)
    block = "backbone.body.trunk2.fbnetv2_2_0"
    file["meta"][f"{block}.dw.conv"]["stride"] = [1, 1]
    torch.save(file, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"a\.pth: {block}\.dw\.conv has stride"):
        convert(tmp_path / "a.pth")
    file["meta"][f"{block}.dw.conv"]["stride"] = [2, 2]
    file["blocks"][block]["res"] = True
    torch.save(file, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"block {block} is .*; expected .* as in FBNetV3A"):
        convert(tmp_path / "a.pth")
    file["blocks"][block]["res"] = False
    file["buffers"]["proposal_generator.anchor_generator.cell_anchors.0"] *= 2
    torch.save(file, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth has the anchors .*; expected those of"):
        convert(tmp_path / "a.pth")
