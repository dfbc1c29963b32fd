"""From a file to detections in its pixels: coordinates by hand, masks by pycocotools, batches and single images."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as pycoco

from rcnn.data.loading.padding import Padding
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.mask import MaskHead
from rcnn.models.overrides import override
from rcnn.predictor import Predictor, to_original
from rcnn.preprocess import Frame
from rcnn.results import ImageDetections
from rcnn.runtime.devices import choose_device
from rcnn.structures import Detections, ImageBatch
from tests.narrow import instance, present
from tests.tiny_data import TINY_MODEL

CLASSES = ("square", "disc")


@pytest.fixture(scope="module")
def detector() -> Detector:
    """A tiny detector with random weights that detects something."""
    torch.manual_seed(0)
    words = [*TINY_MODEL, "num_classes=2", "box.score_threshold=0.2", "box.selection.max_detections=20"]
    detector = build_detector(override(model_config("mask_rcnn_compact"), words)).eval()
    torch.nn.init.normal_(instance(detector.box_head, BoxHead).logits.weight, std=0.5)
    torch.nn.init.normal_(instance(detector.mask_head, MaskHead).logits.weight, std=2.0)
    return detector


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """An image (3, H, W) uint8."""
    return torch.randint(0, 256, (3, height, width), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_boxes_return_to_the_original_by_hand() -> None:
    boxes = torch.tensor(
        [[10.0, 20.0, 30.0, 60.0], [-5.0, 90.0, 500.0, 120.0], [50.0, 150.0, 60.0, 160.0], [1, 1, 2, 2]]
    )
    detections = Detections(
        boxes=boxes[None],
        scores=torch.tensor([[0.9, 0.8, 0.7, 0.0]]),
        labels=torch.tensor([[1, 0, 1, 0]]),
        valid=torch.tensor([[True, True, True, False]]),
        keypoints=torch.tensor([4.0, 8.0, 0.5]).expand(1, 4, 3, 3).clone(),
    )
    config = model_config("faster_rcnn_r50_fpn")
    # y halves, x doubles; the third lies below the image
    frame = Frame(original=(50, 400), size=(100, 200), resized=(100, 200), to_original_scale=(2, 0.5))
    found = to_original(detections, 0, frame, config)
    np.testing.assert_array_equal(found.boxes, [[20, 10, 60, 30], [0, 45, 400, 50]])
    np.testing.assert_array_equal(found.labels, [1, 0])
    np.testing.assert_allclose(found.scores, [0.9, 0.8])
    assert found.keypoints is not None
    np.testing.assert_array_equal(found.keypoints[0, 0], [8.0, 4.0, 0.5])
    assert (found.height, found.width, found.masks, len(found)) == (50, 400, None, 2)


def test_masks_become_coco_run_lengths() -> None:
    full, left = np.ones((28, 28), np.float32), np.zeros((28, 28), np.float32)
    left[:, :14] = 1
    found = ImageDetections(
        height=40,
        width=60,
        boxes=np.array([[10, 5, 30, 25], [0, 0, 60, 40]], np.float32),
        scores=np.array([0.9, 0.3], np.float32),
        labels=np.array([0, 1]),
        box_masks=np.stack([full, left]),
    )
    rles = found.rles()
    assert rles is not None
    expected = np.zeros((2, 40, 60), np.uint8)
    expected[0, 5:25, 10:30] = 1
    expected[1, :, :30] = 1
    for rle, mask in zip(rles, expected, strict=True):
        assert rle["size"] == [40, 60]
        assert isinstance(rle["counts"], str)
        np.testing.assert_array_equal(pycoco.decode(rle), mask)
    kept = found.above(0.5)
    assert len(kept) == 1
    [entry] = kept.to_json(CLASSES)
    assert entry == {"label": 0, "name": "square", "score": pytest.approx(0.9), "box": [10, 5, 30, 25], "mask": rles[0]}


def test_an_image_of_the_network_size_is_not_resized(detector: Detector) -> None:
    image = noise(96, 128)
    predictor = Predictor(detector, classes=CLASSES, device="cpu")
    [found] = predictor.predict([image])
    expected = detector.predict(ImageBatch(pixels=image[None], sizes=torch.tensor([[96, 128]])))
    count = int(expected.valid.sum())
    assert count >= 3
    assert len(found) == count
    np.testing.assert_allclose(found.boxes, expected.boxes[0, :count].numpy(), atol=1e-3)
    np.testing.assert_allclose(found.scores, expected.scores[0, :count].numpy(), atol=1e-5)
    np.testing.assert_array_equal(found.labels, expected.labels[0, :count].numpy())
    assert expected.masks is not None
    np.testing.assert_allclose(present(found.box_masks), expected.masks[0, :count].numpy(), atol=1e-4)


def test_a_larger_image_is_resized_and_its_boxes_come_back(detector: Detector) -> None:
    predictor = Predictor(detector, classes=CLASSES, device="cpu")
    small, original = noise(96, 128, seed=3), (192, 384)
    prepared, frame = predictor.prepare(noise(*original))
    assert frame.original == original
    assert tuple(prepared.shape) == (3, 64, 128)  # the longer side is cut at 128
    own_frame = predictor.preprocessor.frame((96, 128))
    [own] = predictor.detect([small], [own_frame])
    [doubled] = predictor.detect([small], [predictor.preprocessor.frame((192, 256))])
    np.testing.assert_allclose(doubled.boxes, own.boxes * 2, rtol=1e-5)


@pytest.mark.parametrize("padding", ["exact", "bucket"])
def test_a_batch_gives_what_its_images_give_alone(detector: Detector, padding: Padding) -> None:
    predictor = Predictor(detector, classes=CLASSES, device="cpu", padding=padding)
    images = [noise(96, 128, seed) for seed in range(3)]
    together = predictor.predict(images)
    assert sum(map(len, together)) >= 3
    for image, found in zip(images, together, strict=True):
        [alone] = predictor.predict([image])
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)


def test_other_sizes_in_a_list_change_no_detection(detector: Detector) -> None:
    predictor = Predictor(detector, classes=CLASSES, device="cpu")
    images = [noise(96, 128), noise(60, 40, 1), noise(96, 128, 2), noise(1, 1, 3)]
    boxes = [[[0, 0, image.shape[2], image.shape[1]]] for image in images]
    for given in (None, boxes):
        together = predictor.predict(images, boxes=given)
        assert sum(map(len, together)) >= 4
        for place, found in enumerate(together):
            alone = predictor.predict(images[place], boxes=None if given is None else given[place])
            np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
            np.testing.assert_allclose(found.scores, alone.scores, atol=1e-4)


def test_a_file_its_bytes_and_its_pixels_give_the_same(detector: Detector, tmp_path: Path) -> None:
    image = noise(96, 128)
    path = tmp_path / "noise.png"
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    predictor = Predictor(detector, classes=CLASSES, device="cpu")
    [pixels], [file], [encoded] = (predictor.predict([s]) for s in (image, path, path.read_bytes()))
    assert len(pixels) >= 3
    np.testing.assert_array_equal(pixels.boxes, file.boxes)
    np.testing.assert_array_equal(pixels.boxes, encoded.boxes)


def test_the_detector_given_is_left_as_it_was(detector: Detector) -> None:
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    Predictor(detector, classes=CLASSES, device="cpu", precision="bfloat16").predict([noise(96, 128)])
    after = detector.state_dict()
    assert all(torch.equal(value, after[name]) and value.dtype == after[name].dtype for name, value in before.items())


def test_bfloat16_gives_nearly_the_same_detections(detector: Detector) -> None:
    image = noise(96, 128)
    [exact] = Predictor(detector, classes=CLASSES, device="cpu").predict([image])
    [rough] = Predictor(detector, classes=CLASSES, device="cpu", precision="bfloat16").predict([image])
    assert rough.scores.dtype == np.float32
    assert rough.boxes.dtype == np.float32
    assert abs(float(rough.scores[0]) - float(exact.scores[0])) < 0.05


def test_an_absent_device_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(ValueError, match="device cuda: torch finds no GPU"):
        choose_device("cuda")
    assert choose_device("auto") == torch.device("cpu")


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="device 'gpu' is not known; expected auto, cpu, cuda, cuda:N or mps"):
        choose_device("gpu")


def test_one_image_gives_one_result_and_a_list_a_list(detector: Detector) -> None:
    predictor = Predictor(detector, classes=CLASSES, device="cpu")
    image = noise(96, 128)
    array = image.permute(1, 2, 0).numpy()
    one = predictor.predict(array)
    assert one.names[0] in CLASSES
    forms = predictor.predict([image, Image.fromarray(array), array], batch_size=2)
    for result in (*forms, predictor.predict(array[:, :, ::-1], channels="bgr")):
        np.testing.assert_allclose(result.boxes, one.boxes, atol=1e-3)
    assert predictor.predict([]) == []
    assert (predictor.predict(image, score=0.5).scores >= 0.5).all()
    assert one.draw().size == (128, 96)


def test_invalid_arguments_list_the_choices(detector: Detector) -> None:
    with pytest.raises(ValueError, match="precision='float16' is not known; expected float32, bfloat16, auto"):
        Predictor(detector, precision="float16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="padding='buckets' is not known; expected exact, bucket"):
        Predictor(detector, padding="buckets")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got 3 classes; the detector has 2"):
        Predictor(detector, classes=("a", "b", "c"))
    with pytest.raises(ValueError, match="overrides and allow are for checkpoints"):
        Predictor(detector, overrides=["box.score_threshold=0.1"])
    for wrong in (0, 2.5, "4", True):
        with pytest.raises(ValueError, match=f"batch_size={wrong!r}; expected 1 or more"):
            Predictor(detector, device="cpu").predict([noise(8, 8)], batch_size=wrong)  # type: ignore[call-overload]
    assert Predictor(detector, device="cpu").classes == ("0", "1")


def test_one_bad_image_never_costs_the_others(detector: Detector, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    predictor = Predictor(detector, device="cpu")
    images: list[Any] = [noise(40, 60), tmp_path / "bad.png", tmp_path / "none.png", noise(30, 30, 1), np.zeros(3)]
    for batch_size in (1, 2, 8):
        first, bad, missing, second, array = predictor.predict(images, errors="return", batch_size=batch_size)
        assert isinstance(first, ImageDetections)
        assert isinstance(second, ImageDetections)
        assert (first.height, second.height) == (40, 30)
        assert isinstance(bad, ValueError)
        assert "bad.png" in str(bad)
        assert isinstance(missing, FileNotFoundError)
        assert str(array).startswith("image 4: the array is (3,)")
    with pytest.raises(ValueError, match=r"bad\.png"):
        predictor.predict(images)
    with pytest.raises(ValueError, match="errors='skip' is not known; expected 'raise' or 'return'"):
        predictor.predict(images, errors="skip")  # type: ignore[call-overload]
    for score in ("a", 2):
        with pytest.raises(ValueError, match=r"score=.*; expected a number from 0 to 1"):
            predictor.predict(noise(8, 8), score=score)  # type: ignore[call-overload]


def test_one_bad_image_is_raised_or_returned(detector: Detector, tmp_path: Path) -> None:
    predictor = Predictor(detector, device="cpu")
    with pytest.raises(FileNotFoundError, match=r"none\.png does not exist"):
        predictor.predict(tmp_path / "none.png")
    assert isinstance(predictor.predict(tmp_path / "none.png", errors="return"), FileNotFoundError)
    assert isinstance(predictor.predict(np.zeros(3), errors="return"), ValueError)  # type: ignore[arg-type]
    assert isinstance(predictor.predict(noise(8, 8), errors="return"), ImageDetections)


def test_open_files(detector: Detector, tmp_path: Path) -> None:
    Image.fromarray(noise(40, 60).permute(1, 2, 0).numpy()).save(tmp_path / "a.png")
    predictor = Predictor(detector, device="cpu")
    expected = predictor.predict(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        found = predictor.predict(file)
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    assert found.draw().size == (60, 40)  # the file is closed
    [found] = predictor.predict([io.BytesIO((tmp_path / "a.png").read_bytes())])
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_the_name_of_a_model_is_no_checkpoint() -> None:
    with pytest.raises(FileNotFoundError, match=r"is the name of a model, which has no published weights.*rcnn train"):
        Predictor("mask_rcnn_compact")
