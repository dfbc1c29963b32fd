"""Boxes that the user gives: scores, masks and features of exactly these, by independent computations."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import Tensor

from rcnn.data.given_boxes import BoxFile, check_given, read_boxes
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.heads.box import BoxHead
from rcnn.models.overrides import override
from rcnn.predictor import Predictor
from rcnn.tta import AugmentedPredictor
from rcnn.weights.checkpoint import empty_detector, save_checkpoint
from rcnn.weights.systems import mask_faster_rcnn
from tests.command import rcnn
from tests.narrow import instance, present
from tests.tiny_data import TINY_MODEL
from tests.unit.random_batches import random_images
from tests.unit.weights.mask_faster_rcnn_peer import WORDS, Slow, paste, peer_state
from tests.unit.weights.state_dicts import convert_state

CLASSES = ("square", "disc")
BOXES = np.array([[40.0, 30.0, 90.0, 80.0], [3.5, 4.25, 30.0, 50.5], [10.0, 10.0, 120.0, 90.0]], np.float32)


def tiny(name: str = "mask_rcnn_compact", *words: str) -> Detector:
    torch.manual_seed(0)
    given = [word for word in TINY_MODEL if name.startswith("mask") or not word.startswith("mask.")]
    detector = build_detector(override(model_config(name), [*given, "num_classes=2", *words])).eval()
    for module in detector.modules():
        if isinstance(module, BoxHead):
            torch.nn.init.normal_(module.logits.weight, std=0.5)
    return detector


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    """An image (3, H, W) uint8."""
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(tiny(), classes=CLASSES, device="cpu")


@torch.no_grad()
def test_rows_that_are_not_valid_hold_zeros_whatever_the_given_boxes_hold(predictor: Predictor) -> None:
    detector, images = predictor.detector, random_images([(96, 128)])
    boxes = torch.cat([torch.from_numpy(BOXES), torch.zeros(1, 4)])[None]  # (1, 4, 4)
    valid, features = torch.tensor([[True, True, True, False]]), detector.features(images)
    expected = detector.predict_boxes(features, images, boxes, valid, None)
    boxes[0, 3] = torch.nan
    found = detector.predict_boxes(features, images, boxes, valid, None)
    for name in ("boxes", "scores", "labels", "masks"):
        values = getattr(found, name)
        assert torch.equal(values, getattr(expected, name)), name
        assert not values[0, 3].any(), name


@torch.no_grad()
def test_scores_and_features_equal_torchvision_layer_by_layer(predictor: Predictor) -> None:
    """96 x 128 is the network's input, so that pixels of the file are those of the network."""
    image, detector = noise(96, 128), predictor.detector
    found, features = predictor.predict(image, boxes=BOXES), predictor.features(image, BOXES)
    head = instance(detector.box_head, BoxHead)
    x = (image.float()[None] - detector.pixel_mean) / detector.pixel_std
    maps = present(detector.fpn)(detector.backbone(x))
    # equation 1 of FPN puts boxes with sides under 112 pixels on p2
    pooled = torchvision.ops.roi_align(maps["p2"], [torch.from_numpy(BOXES)], 7, 1 / 4, 0, aligned=True)
    weights = head.state_dict()
    hidden = pooled.flatten(1)
    for layer in ("fc1", "fc2"):
        hidden = torch.relu(hidden @ weights[f"trunk.{layer}.weight"].T + weights[f"trunk.{layer}.bias"])
    logits = hidden @ weights["logits.weight"].T + weights["logits.bias"]
    expected = logits.softmax(1)[:, :-1]
    np.testing.assert_allclose(features.pooled, pooled, atol=1e-4)
    np.testing.assert_allclose(features.vectors, hidden, atol=1e-4)
    np.testing.assert_allclose(features.pooled_means, pooled.mean((2, 3)), atol=1e-4)
    assert features.maps is None
    np.testing.assert_array_equal(found.boxes, BOXES)
    np.testing.assert_array_equal(found.labels, expected.argmax(1))
    np.testing.assert_allclose(found.scores, expected.max(1)[0], atol=1e-5)
    given = predictor.predict(image, boxes=BOXES, labels=[1, 0, 1])
    np.testing.assert_array_equal(given.labels, [1, 0, 1])
    np.testing.assert_allclose(given.scores, expected[torch.arange(3), torch.tensor([1, 0, 1])], atol=1e-5)


def test_a_detection_given_as_a_box_gets_its_mask_and_size(predictor: Predictor) -> None:
    """The mask head sees the same box again; the image is resized, and its sides have different factors."""
    image = noise(70, 121)
    found = predictor.predict(image)[:5]
    again = predictor.predict(image, boxes=found.boxes, labels=found.labels)
    np.testing.assert_array_equal(again.boxes, found.boxes)
    np.testing.assert_allclose(present(again.box_masks), present(found.box_masks), atol=1e-4)
    assert (again.height, again.width, again.classes) == (70, 121, CLASSES)
    again.draw()


def test_several_images_and_one_have_the_same_rows(predictor: Predictor) -> None:
    images = [noise(96, 128), noise(96, 128, 1), noise(96, 128, 2)]
    boxes = [BOXES, BOXES[:0], BOXES[1:2].tolist()]
    rows = predictor.predict(images, boxes=boxes, batch_size=2)
    assert [len(found) for found in rows] == [3, 0, 1]
    for image, given, found in zip(images, boxes, rows, strict=True):
        alone = predictor.predict(image, boxes=given)
        np.testing.assert_array_equal(alone.labels, found.labels)
        np.testing.assert_allclose(alone.scores, found.scores, atol=1e-5)
    assert len(predictor.features(images[0], [])) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cascade_mask_rcnn_compact", ()),
        ("keypoint_rcnn_compact", ("num_classes=1",)),
        ("fcis_compact", ()),
    ],
)
def test_other_heads_keep_the_boxes_too(name: str, words: tuple[str, ...]) -> None:
    small = [word for word in TINY_MODEL if word.startswith(("rpn", "input"))]
    torch.manual_seed(0)
    config = override(model_config(name), [*small, "num_classes=2", *words])
    found = Predictor(build_detector(config), device="cpu").predict(noise(96, 128), boxes=BOXES)
    np.testing.assert_array_equal(found.boxes, BOXES)
    assert ((found.scores > 0) & (found.scores < 1)).all()
    assert (found.box_masks is not None) == config.has_masks
    assert (found.keypoints is not None) == (config.keypoint is not None)


@torch.no_grad()
def test_mask_faster_rcnn_by_its_rules() -> None:
    """Masks for boxes and labels, pool5 and fc7 of boxes, as MAttNet takes them; boxes end on their last pixel."""
    state = peer_state()
    converted = convert_state(mask_faster_rcnn.SYSTEM, state, WORDS)
    detector = empty_detector(converted.config)
    detector.load_state_dict(converted.state)
    predictor = Predictor(detector.eval(), classes=["a", "b", "c"], device="cpu")
    image = np.random.default_rng(1).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    boxes, labels = np.array([[5.0, 7.0, 50.0, 40.0], [30.0, 2.0, 82.0, 60.0], [0.0, 0.0, 20.0, 60.0]]), [2, 0, 1]
    slow, scale = Slow(state), 90 / 61
    net = slow.features(image, scale)
    scores, _, masks = slow.heads(net, boxes * scale)
    crops = slow.crop(net, boxes * scale)
    spatial = slow.tail(crops)

    inclusive = boxes + np.array([0, 0, 1, 1])
    features = predictor.features(image, inclusive)
    np.testing.assert_allclose(features.pooled_means, crops.mean((2, 3)), atol=1e-3)
    np.testing.assert_allclose(present(features.maps), spatial, atol=2e-3)
    np.testing.assert_allclose(features.vectors, spatial.mean((2, 3)), atol=1e-3)
    found = predictor.predict(image, boxes=inclusive, labels=labels)
    np.testing.assert_allclose(found.scores, scores[range(3), [label + 1 for label in labels]], atol=1e-4)
    own = present(masks)[range(3), [label + 1 for label in labels]].numpy()
    expected = np.stack([paste(mask, box, image.shape[:2]) for mask, box in zip(own, boxes, strict=True)])
    assert (present(found.masks) != expected).mean() < 1e-3
    best = predictor.predict(image, boxes=inclusive)
    np.testing.assert_array_equal(best.labels, scores[:, 1:].argmax(1))


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([[1, 2, 3]], r"boxes have shape \(1, 3\); expected \(N, 4\)"),
        ([[1, 2, 30, 40], [9, 9, 5, 20]], r"box 1 is \[9\.0, 9\.0, 5\.0, 20\.0\]; expected x1 < x2"),
        ([[500, 2, 600, 40]], r"at least partly inside the image of 128 x 96"),
        ([[1, 2, float("nan"), 4]], "box 0"),
        ("all", "expected N rows of four numbers"),
    ],
)
def test_boxes_that_cannot_be_used(predictor: Predictor, boxes: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor.predict(noise(96, 128), boxes=boxes)
    with pytest.raises(ValueError, match=rf"image 1: .*{message}"):
        predictor.predict([noise(96, 128)] * 2, boxes=[BOXES, boxes])
    errors = predictor.predict([noise(96, 128)] * 2, boxes=[BOXES, boxes], errors="return")
    assert len(errors[0]) == 3  # type: ignore[arg-type]
    assert isinstance(errors[1], ValueError)


def test_boxes_and_labels_of_any_kind() -> None:
    image = torch.zeros(3, 96, 128, dtype=torch.uint8)
    boxes = torch.tensor(BOXES, dtype=torch.float32, requires_grad=True)
    found = check_given(boxes, torch.tensor([1, 0, 1]), image, CLASSES)
    np.testing.assert_array_equal(found.boxes, np.array(BOXES, dtype=np.float32))
    with pytest.raises(
        ValueError, match=r"photo: labels=\[\[1\], \[1, 2\], \[3\]\]; expected 3 integers, one for each"
    ):
        check_given(BOXES, [[1], [1, 2], [3]], image, CLASSES, "photo: ")


def test_arguments_that_contradict_each_other(predictor: Predictor) -> None:
    image = noise(96, 128)
    with pytest.raises(ValueError, match="leave score out"):
        predictor.predict(image, boxes=BOXES, score=0.5)
    with pytest.raises(ValueError, match="leave score out"):
        predictor.predict(image, boxes=BOXES, score={"disc": 0.0, "square": 0.1})
    assert len(predictor.predict(image, boxes=BOXES, score={"disc": 0.0})) == len(BOXES)
    with pytest.raises(ValueError, match="boxes= is missing; pass boxes=, too"):
        predictor.predict(image, labels=[1])
    with pytest.raises(ValueError, match="expected 3 integers, one for each box"):
        predictor.predict(image, boxes=BOXES, labels=[1])
    with pytest.raises(ValueError, match="expected classes from 0 to 1"):
        predictor.predict(image, boxes=BOXES, labels=[0, 1, 2])
    with pytest.raises(ValueError, match="boxes has 1 entry, fewer than there are images"):
        predictor.predict([image, image], boxes=[BOXES])
    with pytest.raises(ValueError, match=r"labels\[1\] is None; expected labels for each image, or none at all"):
        predictor.predict([image, image], boxes=[BOXES, BOXES], labels=[[0, 1, 1], None])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="boxes has 3 entries for 2 images"):
        predictor.predict([image, image], boxes=[BOXES] * 3)
    with pytest.raises(ValueError, match="labels has 3 entries for 2 images"):
        predictor.predict([image, image], boxes=[BOXES] * 2, labels=[[0, 1, 1]] * 3)
    with pytest.raises(ValueError, match="use Predictor"):
        AugmentedPredictor(tiny(), classes=CLASSES, device="cpu").predict(image, boxes=BOXES)
    proposals = build_detector(override(model_config("rpn_r50_fpn"), ["backbone.blocks=[1,1,1,1]"]))
    with pytest.raises(ValueError, match="has no box head, so it cannot score given boxes"):
        Predictor(proposals, device="cpu").predict(image, boxes=BOXES)
    fcis = Predictor(build_detector(override(model_config("fcis_compact"), ["num_classes=2"])), device="cpu")
    with pytest.raises(ValueError, match="FCIS has no layers per region"):
        fcis.features(image, BOXES)


def test_files_of_boxes(tmp_path: Path) -> None:
    def read(content: object) -> dict[str, list[list[float]]]:
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps(content))
        found = read_boxes(path)
        return {name: found.of(name) for name in ("photos/a.jpg", "photos/COCO_val2014_000000000139.jpg")}

    first, second = [[1.0, 2.0, 4.0, 6.0]], [[5.0, 5.0, 6.0, 8.0]]
    expected = {"photos/a.jpg": first, "photos/COCO_val2014_000000000139.jpg": second}
    name = "COCO_val2014_000000000139.jpg"
    assert read({"a.jpg": first, name: second}) == expected
    assert read([
        {"image_id": "a", "bbox": [1, 2, 3, 4], "score": 0.5}, {"image_id": 139, "bbox": [5, 5, 1, 3], "score": 1}
    ]) == expected  # fmt: skip
    images = [{"id": 7, "file_name": "a.jpg"}, {"id": 8, "file_name": name}, {"id": 9, "file_name": "b.jpg"}]
    annotations = [{"image_id": 7, "bbox": [1, 2, 3, 4]}, {"image_id": 8, "bbox": [5, 5, 1, 3]}]
    assert read({"images": images, "annotations": annotations, "categories": []}) == expected
    detections = [
        {"file": "x/a.jpg", "detections": [{"box": first[0]}]},
        {"file": name, "detections": [{"box": second[0]}]},
    ]
    with pytest.raises(ValueError, match=r"boxes\.json has no boxes for image \S+; expected an entry"):
        read({"images": detections})
    detections[0]["file"] = "photos/a.jpg"
    assert read({"images": detections}) == expected
    for image in images[:2]:  # as in LVIS v1
        image["coco_url"] = f"http://images.cocodataset.org/val2014/{image.pop('file_name')}"
    assert read({"images": images, "annotations": annotations, "categories": []}) == expected
    with pytest.raises(FileNotFoundError, match=r"none\.json does not exist; expected"):
        read_boxes(tmp_path / "none.json")
    with pytest.raises(ValueError, match=r"is a folder; expected \{"):
        read_boxes(tmp_path)


def test_an_image_gets_the_boxes_of_the_longest_name_that_its_path_ends_with(tmp_path: Path) -> None:
    def read(*names: str) -> BoxFile:
        path = tmp_path / "boxes.json"
        path.write_text(json.dumps({name: [[0, 0, 1, place + 1]] for place, name in enumerate(names)}))
        return read_boxes(path)

    images = ["photos/a.jpg", "photos/sub/a.jpg", "./photos/data.jpg", "C:\\photos\\new\\a.jpg"]
    for names in (["a.jpg", "sub/a.jpg", "data", "new/a.jpg"], ["a", "sub\\a", "./data.jpg", "new\\a.jpg"]):
        boxes = read(*names)
        boxes.require_one_each([*images, "./photos/a.jpg"])
        assert [boxes.of(image) for image in images] == [[[0, 0, 1, place]] for place in (1, 2, 3, 4)]
        assert boxes.unused() == []
    assert not read("ub/a.jpg", "ta.jpg", "", "other/photos/a.jpg").has("photos/sub/data.jpg")
    with pytest.raises(ValueError, match=r"'a\.jpg' fit 2 images \(photos/a\.jpg, photos/new/a\.jpg\); expected one"):
        read("a.jpg", "sub/a.jpg").require_one_each([*images[:2], "photos/new/a.jpg"])
    with pytest.raises(ValueError, match=r"sub/a\.jpg, \./sub/a\.jpg are names of one image"):
        read("sub/a.jpg", "./sub/a.jpg").has("photos/sub/a.jpg")
    (tmp_path / "boxes.json").write_text(json.dumps([{"image_id": 7, "bbox": [1, 2, 3, 4]}]))
    with pytest.raises(ValueError, match=r"boxes of 7 fit 2 images \(a_7\.jpg, b_007\.jpg\)"):
        read_boxes(tmp_path / "boxes.json").require_one_each(["a_7.jpg", "b_007.jpg"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty (0 bytes)"),
        ("3", ": the file contains 3"),
        ('"text"', ": the file contains 'text'"),
        ("[]", ": the file contains no boxes"),
        ("{}", ": the file contains no boxes"),
        ('["a"]', ": entry 0 is 'a', expected an object with image_id and bbox"),
        ('[{"image_id": 1}]', ": entry 0 is {'image_id': 1}, expected an object with image_id and bbox"),
        ('[{"image_id": 1, "bbox": [NaN, 0, 1, 1]}]', ": the bbox of entry 0 is [nan, 0, 1, 1], expected four finite"),
        ('[{"image_id": 1, "bbox": [1' + "0" * 400 + ", 0, 1, 1]}]", "expected four finite numbers"),
        ('{"a.jpg": [[1, 2, 3, 4], [1, 2, "3", 4]]}', ": box 1 of 'a.jpg' is [1, 2, '3', 4], expected four"),
        ('{"a.jpg": [1, 2, 3, 4]}', ": box 0 of 'a.jpg' is 1, expected four"),
        ('{"a.jpg": {"boxes": null}}', ": the value of 'a.jpg' is {'boxes': None}, expected a list"),
        ('{"images": [{"file": "a.jpg", "detections": 3}]}', ": detections of images[0] ('a.jpg') is 3, expected"),
        ('{"images": [{"file": "a.jpg", "detections": [{}]}]}', ": detection 0 of images[0] ('a.jpg') is {}, expected"),
        ('{"annotations": [{"image_id": 9, "bbox": [1, 2, 3, 4]}], "images": []}', ": annotations[0] has the image_id"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "a.jpg"}], "annotations": []}',
            ": images[1] has the file name 'a.jpg', which an entry before it has too",
        ),
        (
            '{"images": [{"file": "a.jpg", "detections": []}, {"file": "a.jpg", "detections": []}]}',
            ": images[1] has the file 'a.jpg', which an entry before it has too",
        ),
        ('{"annotations": []}', ": images is None, expected a list"),
    ],
)  # fmt: skip
def test_a_file_of_boxes_that_cannot_be_read_names_the_entry(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "boxes.json").write_text(content)
    with pytest.raises(ValueError, match=rf'boxes\.json.*{re.escape(message)}.*expected {{"photo\.jpg"'):
        read_boxes(tmp_path / "boxes.json")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, two photos, and a file with boxes of one of them."""
    folder = tmp_path_factory.mktemp("given")
    save_checkpoint(folder / "model", tiny(), classes=CLASSES)
    for name, seed in (("a.png", 0), ("b.png", 1)):
        Image.fromarray(noise(96, 128, seed).permute(1, 2, 0).numpy()).save(folder / name)
    (folder / "boxes.json").write_text(json.dumps({"a.png": BOXES.tolist(), "c.png": [[1, 2, 3, 4]]}))
    return folder


def test_the_command(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["predict", checkpoint / "model", checkpoint / "a.png", "--boxes", checkpoint / "boxes.json"]
    out, features = tmp_path / "out", tmp_path / "out" / "features.npz"
    assert rcnn(*words, "--output", out, "--features", features, "--device", "cpu") == 0
    error = capsys.readouterr().err
    assert "features of 3 boxes" in error
    assert "boxes.json has boxes for images that were not predicted on: c.png" in error
    [entry] = json.loads((out / "predictions.json").read_text())["images"]
    predictor = Predictor(checkpoint / "model", device="cpu")
    expected = predictor.predict(checkpoint / "a.png", boxes=BOXES)
    assert [found["box"] for found in entry["detections"]] == BOXES.tolist()
    assert [found["score"] for found in entry["detections"]] == pytest.approx(expected.scores.tolist(), abs=1e-5)
    assert all("mask" in found for found in entry["detections"])
    with np.load(features) as arrays:
        described = predictor.features(checkpoint / "a.png", BOXES)
        assert arrays["files"].tolist() == [str(checkpoint / "a.png")]
        assert arrays["image"].tolist() == [0, 0, 0]
        np.testing.assert_array_equal(arrays["boxes"], BOXES)
        np.testing.assert_allclose(arrays["pooled"], described.pooled_means, atol=1e-5)
        np.testing.assert_allclose(arrays["vectors"], described.vectors, atol=1e-5)
    again = [*words, checkpoint / "b.png", "--output", out, "--features", features, "--device", "cpu"]
    assert rcnn(*again) == 0
    assert re.search(r"1 image without an entry in \S+boxes\.json, skipped: \S+b\.png\n", capsys.readouterr().err)
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == 1
    assert rcnn(*words[:2], checkpoint / "b.png", *words[3:], "--output", out) == 2
    assert "has boxes for a.png, c.png, but for none of the images" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--features", "f.npz"], "needs boxes: also give --boxes FILE"),
        (["--boxes", "boxes.json", "--score", "0.5"], "leave them out"),
        (["--boxes", "boxes.json", "--tta", "own"], "leave --tta out"),
        (["--boxes", "boxes.json", "--features", "f.npy"], "expected a file name that ends in .npz"),
        (["--boxes", "none.json"], "none.json does not exist"),
        (["--boxes", "boxes.json", "--data", "."], "leave --data out"),
        (["--boxes", "boxes.json", "--features", "mine.npz"], "mine.npz"),
    ],
)
def test_options_that_contradict_each_other(
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(checkpoint)
    Path("mine.npz").write_bytes(b"mine")
    images = list[str]() if "--data" in words else ["a.png"]
    assert rcnn("predict", "model", *images, "--output", "new", "--device", "cpu", *words) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert Path("mine.npz").read_bytes() == b"mine"
    assert not Path("new").exists()
