"""Exported files against the model in PyTorch: one compact model per kind, several sizes, batches and counts."""

from __future__ import annotations

import json
import runpy
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

import rcnn
from rcnn.export.check import check_resize
from rcnn.export.compare import compare
from rcnn.export.files import store
from rcnn.export.resize import add_resize
from rcnn.export.write import GRAPH_BYTES, Exported, export_model, file_bytes, target_of
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.inference import prepare_for_inference
from rcnn.runtime.exported import exported_record, open_exported
from tests.command import rcnn as command
from tests.tiny_data import write_tiny_coco
from tests.unit.export.detectors import (
    CPU,
    SHAPES,
    batch_of,
    detector_of,
    found_without_pixels,
    require_equal,
    require_equal_on_small_images,
)

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "onnx_numpy.py"


@pytest.fixture(scope="module")
def mask_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Detector, Exported]:
    """mask_rcnn_compact, exported to ONNX with all defaults."""
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    detector = detector_of("mask_rcnn_compact", "box.selection.max_detections=30", "mask.convs=1")
    path = tmp_path_factory.mktemp("export") / "mask.onnx"
    names = ["square", "disc", "cow", "pig", "hen", "fox"]
    return detector, export_model(detector, path, classes=names)


def test_mask_rcnn_gives_the_same_detections(mask_model: tuple[Detector, Exported]) -> None:
    detector, written = mask_model
    require_equal(detector, open_exported(written.path, CPU), *SHAPES, capacity=30)
    assert written.difference.unmatched == 0


def test_the_smallest_images_are_not_padded(mask_model: tuple[Detector, Exported]) -> None:
    """Those whose coarsest maps have a side of 1, for which torch.export makes a graph of its own by default."""
    detector, written = mask_model
    assert written.record.least_size == (32, 32)
    require_equal_on_small_images(detector, open_exported(written.path, CPU))


def test_the_file_names_no_source_files(mask_model: tuple[Detector, Exported]) -> None:
    """torch's notes at each node have the paths of the machine that exported the file."""
    _, written = mask_model
    assert b"detector.py" not in written.path.read_bytes()


def test_the_file_carries_its_config_and_class_names(mask_model: tuple[Detector, Exported]) -> None:
    detector, written = mask_model
    record = exported_record(written.path)
    assert record.config == detector.config
    assert record.classes == ("square", "disc", "cow", "pig", "hen", "fox")
    assert record == written.record


def test_an_image_without_detections_gives_none(mask_model: tuple[Detector, Exported]) -> None:
    detector, written = mask_model
    expected, found = found_without_pixels(detector, open_exported(written.path, CPU), (2, 128, 128))
    assert not expected.valid.any()
    assert not found.valid.any()
    assert not found.boxes.any()


def test_the_predictor_runs_a_file_like_the_checkpoint(mask_model: tuple[Detector, Exported]) -> None:
    detector, written = mask_model
    image = np.random.default_rng(0).integers(0, 256, (150, 190, 3), dtype=np.uint8)
    expected = rcnn.Predictor(detector, classes=written.record.classes).predict(image)
    predictor = rcnn.Predictor(written.path)
    found = predictor.predict(image)
    assert found.names == expected.names
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)
    assert np.mean(found.masks != expected.masks) < 1e-4
    with pytest.raises(ValueError, match="an exported file only detects"):
        predictor.predict(image, boxes=np.array([[0.0, 0.0, 20.0, 20.0]]))
    with pytest.raises(ValueError, match=r"an exported file with fixed settings, so box\.score_threshold=0\.1"):
        rcnn.Predictor(written.path, overrides=["box.score_threshold=0.1"])


def test_changed_bytes_of_a_file_are_named(mask_model: tuple[Detector, Exported], tmp_path: Path) -> None:
    content = bytearray(mask_model[1].path.read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.onnx").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_exported(mask_model[1].path, CPU)
    with pytest.warns(UserWarning, match=r"a\.onnx has changed since rcnn wrote it: its checksum differs\. Unless"):
        open_exported(tmp_path / "a.onnx", CPU)


def test_a_file_is_served(mask_model: tuple[Detector, Exported], tmp_path: Path) -> None:
    """The answers of the service are those of the checkpoint."""
    pytest.importorskip("fastapi", reason="needs pip install 'rcnn[web]'")
    from PIL import Image

    from tests.unit.serving.running import ServiceOptions, request, running

    detector, written = mask_model
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)).save(photo)
    threads = torch.get_num_threads()  # those of the file's runtime were chosen when it was opened
    with running(rcnn.Predictor(written.path), ServiceOptions(log_requests=False)) as url:
        assert torch.get_num_threads() == threads
        status, text = request(f"{url}/predict", photo.read_bytes())
    assert status == 200
    expected = rcnn.Predictor(detector, classes=written.record.classes).predict(photo).to_json()
    found = json.loads(text)["detections"]
    assert [one["name"] for one in found] == [one["name"] for one in expected] != []
    for one, other in zip(found, expected, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-4)
        assert one["box"] == pytest.approx(other["box"], abs=0.01)


def test_the_command_line_runs_a_file(mask_model: tuple[Detector, Exported], tmp_path: Path) -> None:
    from PIL import Image

    _, written = mask_model
    Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(tmp_path / "photo.png")
    assert command("predict", written.path, tmp_path / "photo.png", "--output", tmp_path / "found") == 0
    assert (tmp_path / "found" / "predictions.json").is_file()
    data = write_tiny_coco(tmp_path / "data", {"val": 2})
    assert command("eval", written.path, "--data", data, "--output", tmp_path / "evaluated", "--pictures", 0) == 0
    assert "bbox" in json.loads((tmp_path / "evaluated" / "metrics.json").read_text())
    assert command("compare", written.path, tmp_path / "evaluated", "--data", data, "--samples", 0) == 0
    assert command("predict", written.path, tmp_path / "photo.png", "--tta", "own", "--output", tmp_path / "no") == 2


def test_the_example_with_numpy_finds_the_same_objects(mask_model: tuple[Detector, Exported], tmp_path: Path) -> None:
    """docs/examples/onnx_numpy.py, on an image that needs no resizing: its resize differs from ours."""
    import onnxruntime

    detector, written = mask_model
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 60
    assert not [line for line in lines if line.startswith(("import torch", "import rcnn", "from rcnn"))]
    detect = runpy.run_path(str(EXAMPLE))["detect"]
    image = np.random.default_rng(1).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    boxes, scores, names, masks = detect(onnxruntime.InferenceSession(str(written.path)), image)
    expected = rcnn.Predictor(detector, classes=written.record.classes).predict(image)
    np.testing.assert_allclose(boxes.clip(0, [160, 128] * 2), expected.boxes, atol=0.01)
    np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
    assert tuple(names) == expected.names
    assert np.mean(np.stack(masks) != expected.masks) < 0.02


def test_a_file_that_resizes(mask_model: tuple[Detector, Exported], tmp_path: Path) -> None:
    """An image that needs no resizing gives the same detections; another one, boxes in its own pixels."""
    _, written = mask_model
    record = replace(written.record, with_resize=True, batch=1)
    add_resize(written.path, record, tmp_path / "merged.onnx")
    store(tmp_path / "merged.onnx", record, tmp_path / "resizes.onnx")
    assert check_resize(tmp_path / "resizes.onnx", written.path).matched > 0
    plain, resizes = rcnn.Predictor(written.path), rcnn.Predictor(tmp_path / "resizes.onnx")
    image = np.random.default_rng(1).integers(0, 256, (128, 160, 3), dtype=np.uint8)
    expected, found = plain.predict(image), resizes.predict(image)
    assert found.names == expected.names
    np.testing.assert_allclose(found.boxes, expected.boxes, atol=0.01)
    large = np.kron(image, np.ones((3, 2, 1), np.uint8))  # 384 x 320
    pair = resizes.predict([large, image])  # images of two sizes: two runs
    assert (pair[0].height, pair[0].width) == (384, 320)
    assert pair[0].boxes[:, 2:].max() > 200
    assert len(pair[0]) == len(plain.predict(large))
    np.testing.assert_allclose(pair[1].boxes, found.boxes, atol=0.01)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("keypoint_rcnn_compact", ("keypoint.convs=1",)),
        ("cascade_mask_rcnn_compact", ("box.selection.nms=soft_linear", "mask.convs=1")),
        ("fcis_compact", ("fcis.vote_iou=0", "fcis.groups=2", "fcis.roi_size=4")),  # ONNX: some 40 nodes per row
    ],
)
def test_other_kinds_give_the_same_detections(name: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    limit = "fcis.max_detections=20" if name.startswith("fcis") else "box.selection.max_detections=20"
    detector = detector_of(name, *overrides, limit)
    # of fixed size and batch, because tracing with dynamic ones takes three times as long
    written = export_model(detector, tmp_path / "model.onnx", size=(160, 224), batch=2)
    model = open_exported(written.path, CPU)
    require_equal(detector, model, (2, 160, 224), capacity=20)
    expected, found = found_without_pixels(detector, model, (2, 160, 224))
    assert not expected.valid.any()
    assert not found.valid.any()
    assert not found.boxes.any()


def test_a_torch_program_of_fixed_size_and_batch(tmp_path: Path) -> None:
    detector = detector_of("fcis_compact", "fcis.max_detections=20")
    written = export_model(detector, tmp_path / "model.pt2", size=(120, 150), batch=2)
    assert written.bytes <= file_bytes(detector, written.record) < 2 * written.bytes
    assert written.record.size == (128, 160)
    assert written.difference.boxes == 0.0
    assert b"detector.py" not in written.path.read_bytes()
    model = open_exported(written.path, CPU)
    images = batch_of(3, 96, 160)  # two runs, the second filled up
    expected = prepare_for_inference(detector).predict(model._padded(images))
    assert compare(expected, model.predict(images)).unmatched == 0
    with pytest.raises(ValueError, match=r"the images are 192x96 .* takes 128x160"):
        model.predict(batch_of(1, 192, 96))
    tall = np.zeros((300, 90, 3), np.uint8)  # made smaller, so that it fits
    assert rcnn.Predictor(written.path).prepare(tall)[0].shape[1] <= 128


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "onnx", "--output", "a.pt2"), "--to onnx writes .onnx, but --output is a.pt2"),
        (("--output", "a"), "a has no suffix; expected .onnx (onnx), .pt2 (torch), .xml (openvino)"),
        (("--output", "a.bin"), "a.bin has the suffix '.bin'; expected .onnx (onnx)"),
        (("--output", "a.onnx", "--size", "800"), "--size 800: expected height x width, e.g. 800x1333, or dynamic"),
        (("--output", "a.onnx", "--batch", "0"), "--batch 0: expected a number of images from 1 to 1,024, or dynamic"),
        (("--output", "a.pt2", "--with-resize"), "cannot be used for fcis_compact: it is a part of ONNX graphs"),
        (
            ("--output", "a.onnx", "--with-resize"),
            "cannot be used for fcis_compact: the model counts pixels of the image",
        ),
        (("--output", "a.onnx"), "mask voting of FCIS has no ONNX operators; export with fcis.vote_iou=0"),
        (("--output", "a.onnx", "--precision", "bfloat16", "fcis.vote_iou=0"), "has no bfloat16 convolution"),
    ],
)
def test_what_cannot_be_exported_says_why(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    monkeypatch.chdir(tmp_path)
    rcnn.save_checkpoint("fcis", build_detector(model_config("fcis_compact")))
    assert command("export", "fcis", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs pip install 'rcnn[onnx]'")
    for suffix in (".onnx", ".pt2"):
        file = tmp_path / f"damaged{suffix}"
        file.write_bytes(b"no model")
        with pytest.raises(ValueError, match="cannot be read as"):
            rcnn.Predictor(file)


def test_the_suffix_says_the_target() -> None:
    assert [target_of(Path(name), None) for name in ("a.onnx", "b.pt2", "c.xml")] == ["onnx", "torch", "openvino"]
    with pytest.raises(ValueError, match=r"model has no suffix; expected \.onnx"):
        target_of(Path("model"), None)


@pytest.mark.parametrize(("precision", "share"), [("float32", 1.0), ("float16", 0.5)])
def test_a_full_disk_is_found_before_the_model_is_traced(
    precision: Literal["float32", "float16"], share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = detector_of("faster_rcnn_compact")
    needed = share * sum(value.nbytes for value in detector.state_dict().values()) + GRAPH_BYTES["onnx"]

    def free(path: Path) -> int:
        return int(needed) - 1

    monkeypatch.setattr("rcnn.outputs.durable.free_space", free)
    said: list[str] = []
    with pytest.raises(OSError, match=rf"No space left on device, and {needed / 1e6:,.1f} MB are needed: .*model"):
        export_model(detector, tmp_path / "new" / "model.onnx", precision=precision, log=said.append)
    assert said == []
    assert not (tmp_path / "new").exists()


def test_data_is_refused_for_proposals_before_anything_is_written(tmp_path: Path) -> None:
    config = replace(model_config("mask_rcnn_compact"), proposals_only=True, num_classes=1, mask=None)
    lines: list[str] = []
    with pytest.raises(ValueError, match=r"--data photos \(data=\) measures AP, but mask_rcnn_compact returns only"):
        export_model(build_detector(config), tmp_path / "rpn.onnx", data="photos", log=lines.append)
    assert not lines
    assert not [*tmp_path.iterdir()]
