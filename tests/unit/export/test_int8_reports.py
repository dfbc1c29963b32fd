"""int8: the images that are used, the warnings for users without annotations, and the description of the file."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from rcnn.export import int8
from rcnn.export.calibration import CalibrationImages, images_below
from rcnn.export.int8 import Quantization, compare_files, quantize
from rcnn.models import model_config
from rcnn.outputs import OutputFolder
from rcnn.runtime.record import ExportRecord
from rcnn.structures import Detections
from tests.command import rcnn as command
from tests.unit.data.coco_folders import write_images

MADE = Quantization(
    images=20, layers=52, float_layers=("a", "b"), agreement=0.91, seconds_float32=0.2, seconds_int8=0.1
)
NOTHING: tuple[tuple[float, ...], ...] = ()
ONE = ((0.0, 0.0, 10.0, 10.0, 0.8),)
HALF = ((0.0, 0.0, 10.0, 5.0, 0.8),)  # IoU with ONE: 1/2


def detections(rows: Sequence[Sequence[float]]) -> Detections:
    """Detections of one image: x1, y1, x2, y2, score."""
    values = torch.tensor(rows).reshape(-1, 5)
    return Detections(
        boxes=values[None, :, :4], scores=values[None, :, 4], labels=torch.zeros(1, len(values), dtype=torch.int64),
        valid=torch.ones(1, len(values), dtype=torch.bool),
    )  # fmt: skip


def files_that_detect(
    monkeypatch: pytest.MonkeyPatch, before: Sequence[Sequence[Any]], after: Sequence[Sequence[Any]]
) -> None:
    """Replace the files: float32 detects `before`, int8 `after`, image by image."""
    models = {
        name: Mock(predict=Mock(side_effect=[detections(rows) for rows in found]))
        for name, found in (("float32.onnx", before), ("int8.onnx", after))
    }

    def opened(path: Path, device: torch.device) -> Mock:
        return models[path.name]

    def batches(predictor: object, files: Sequence[Path], failed: list[str] | None = None) -> Iterator[int]:
        yield from range(len(before))

    monkeypatch.setattr(int8, "Predictor", Mock())
    monkeypatch.setattr(int8, "open_exported", opened)
    monkeypatch.setattr(int8, "batches", batches)


def test_hidden_files_and_pictures_of_rcnn_do_not_calibrate(tmp_path: Path) -> None:
    write_images(tmp_path, ["b.png", "a/c.png", ".thumbnails/b.png", "a/._c.png"])
    (tmp_path / "notes.txt").write_text("text")
    with OutputFolder(tmp_path) as folder, folder.writing("b-found.png") as picture:
        write_images(picture.parent, [picture.name])
    with OutputFolder(tmp_path / "a") as folder, folder.writing("drawn/c.png") as picture:
        write_images(picture.parent, [picture.name])
    assert (tmp_path / "b-found.png").is_file()
    assert (tmp_path / "a" / "drawn" / "c.png").is_file()
    assert [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)] == ["b.png", "a/c.png"]


def test_a_damaged_list_of_files_costs_only_the_damaged_line(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "drawn.png", "b.png"])
    (tmp_path / ".rcnn-files").write_text('{"file": "drawn.png", "sha256": "any"}\ndamaged\n')
    assert [path.name for path in images_below(tmp_path)] == ["a.png", "b.png"]


def test_the_images_that_are_compared_are_among_those_that_calibrate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 100 images, some of 12 evenly spaced ones are not among 64 evenly spaced ones."""
    images = CalibrationImages(files=tuple(Path(f"{number}.png") for number in range(100)))
    given: list[list[Path]] = []

    def batches(predictor: object, files: Sequence[Path], failed: list[str] | None = None) -> Iterator[int]:
        given.append([*files])
        yield from range(12)

    def opened(path: Path, device: torch.device) -> Mock:
        return Mock(
            inputs=Mock(return_value=()), record=Mock(batch=None), predict=Mock(return_value=detections(NOTHING))
        )

    def quantizer(path: Path, inputs: Iterable[object]) -> Mock:
        list(inputs)
        return Mock(layers=("a",))

    monkeypatch.setattr(int8, "Predictor", Mock())
    monkeypatch.setattr(int8, "Quantizer", quantizer)
    monkeypatch.setattr(int8, "open_exported", opened)
    monkeypatch.setattr(int8, "batches", batches)
    quantize(Path("float32.onnx"), Path("int8.onnx"), images, print)
    with pytest.warns(UserWarning, match="nothing is detected on 12 images"):
        compare_files(Path("float32.onnx"), Path("int8.onnx"), images, MADE, Path("a.onnx"))
    calibrated, *compared = given
    assert len({*calibrated}) == 64
    assert [len({*files} & {*calibrated}) for files in compared] == [12, 12]


def test_detections_that_all_moved_are_not_called_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    files_that_detect(monkeypatch, [ONE], [HALF])  # HALF is 5 pixels from ONE, its score the same
    with pytest.warns(UserWarning, match=r"is only 0\.50 "):
        how, difference = compare_files(
            Path("float32.onnx"), Path("int8.onnx"), CalibrationImages(files=()), MADE, Path("a.onnx")
        )
    assert how.agreement == 0.5
    assert (difference.is_empty, difference.matched, difference.unmatched) == (False, 0, 1)


def test_the_agreement_is_that_of_the_written_file_on_images_with_detections(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image on which neither file detects anything would count as 1, one with only a new detection counts as 0."""
    files_that_detect(monkeypatch, [ONE, NOTHING, ONE], [ONE, NOTHING, HALF])
    images = CalibrationImages(files=())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        how, difference = compare_files(Path("float32.onnx"), Path("int8.onnx"), images, MADE, Path("a.onnx"))
    assert how == replace(MADE, agreement=0.75)
    assert difference.matched == 1
    files_that_detect(monkeypatch, [ONE, NOTHING], [HALF, HALF])
    with pytest.warns(UserWarning, match=r"^the agreement of .* a\.onnx with .* file is only 0\.25"):
        how, _ = compare_files(Path("float32.onnx"), Path("int8.onnx"), images, MADE, Path("a.onnx"))
    assert how.agreement == 0.25


def test_files_that_detect_nothing_are_not_called_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    files_that_detect(monkeypatch, [NOTHING] * 3, [NOTHING] * 3)
    unknown = replace(MADE, agreement=None)
    message = r"^a\.onnx was not compared with float32, .*: nothing is detected on 3 images of --calibrate"
    with pytest.warns(UserWarning, match=message):
        how, difference = compare_files(
            Path("float32.onnx"), Path("int8.onnx"), CalibrationImages(files=()), unknown, Path("a.onnx")
        )
    assert how.agreement is None
    assert difference.is_empty


@pytest.mark.parametrize("found", [ONE, NOTHING])
def test_few_and_unreadable_images_get_a_warning(
    found: Sequence[Sequence[float]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And where nothing is detected, no layers are chosen to stay in float, because nothing can be measured."""
    written: list[tuple[str, ...]] = []

    class FakeQuantizer:
        layers = ("a", "b")

        def __init__(self, path: Path, inputs: Iterable[object]) -> None:
            assert len(list(inputs)) == 2

        def write(self, path: Path, float_layers: Sequence[str] = ()) -> None:
            written.append(tuple(float_layers))

    def batches(predictor: object, files: Sequence[Path], failed: list[str] | None = None) -> Iterator[int]:
        if failed is not None:
            failed.append("b.png is empty (0 bytes)")
        yield from range(2)

    def choose(layers: Sequence[str], measured: Callable[[Sequence[str]], float], say: object) -> tuple[str, ...]:
        assert measured(("a",)) == 1.0
        return ("a",)

    def opened(path: Path, device: torch.device) -> Mock:
        return Mock(predict=Mock(return_value=detections(found)))

    for name, value in (
        ("Quantizer", FakeQuantizer), ("Predictor", Mock()), ("batches", batches), ("open_exported", opened),
        ("choose_float_layers", choose),
    ):  # fmt: skip
        monkeypatch.setattr(int8, name, value)
    images = CalibrationImages(files=tuple(Path(f"{name}.png") for name in "abc"))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        how = quantize(tmp_path / "float32.onnx", tmp_path / "int8.onnx", images, print)
    assert [str(one.message).partition(": ")[0] for one in caught] == [
        "1 of 3 images to calibrate on cannot be read and are not used",
        "the int8 ranges are computed from 2 images; expected 10 or more, like those that the model will see (up to 64 "
        "are used). Give more images with --calibrate (calibrate=)",
    ]
    assert (how.images, how.layers, how.agreement) == (2, 2, None)
    assert how.float_layers == written[-1] == (("a",) if found else ())


def test_seconds_are_per_image_of_a_full_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for four images runs four, although it is given one."""
    files_that_detect(monkeypatch, [ONE] * 9, [ONE] * 9)
    for name, batch in (("float32.onnx", 4), ("int8.onnx", None)):
        int8.open_exported(Path(name), torch.device("cpu")).record = Mock(batch=batch)
    ticks = itertools.count()
    monkeypatch.setattr("time.perf_counter", lambda: float(next(ticks)))
    files = [Path("float32.onnx"), Path("int8.onnx")]
    assert int8.seconds_per_image(files, CalibrationImages(files=())) == [0.25, 1.0]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [((0.3, 0.2), "1.50 times as fast"), ((0.2, 0.3), "int8 is slower than float32 on this machine")],
)
def test_an_int8_file_that_is_slower_is_called_slower(
    seconds: tuple[float, float], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(int8, "seconds_per_image", Mock(return_value=list(seconds)))
    lines: list[str] = []
    how = int8.measure(Path("a"), Path("b"), CalibrationImages(files=()), MADE, lines.append)
    assert (how.seconds_float32, how.seconds_int8) == seconds
    assert lines[0] == f"float32 {seconds[0]:.3f} s, int8 {seconds[1]:.3f} s per image ({words})"


def record_of(how: dict[str, Any], **options: Any) -> ExportRecord:
    return ExportRecord(
        config=model_config("faster_rcnn_compact"), classes=("kite", "boat"), target="onnx", precision="int8",
        quantization=how, **options,
    )  # fmt: skip


def test_what_a_file_says_about_itself() -> None:
    measured = replace(
        MADE, ap_images=9, ap_float32={"bbox": 0.5, "segm": None}, ap_int8={"bbox": 0.49, "segm": None}
    ).to_dict()
    assert record_of(measured, size=(96, 128), batch=2).lines() == [
        "onnx file in int8: batch of 2 of 96x128 (height x width)",
        "inputs: images, sizes; outputs: boxes, scores, labels, valid",
        "classes: kite, boat",
        "int8: 50 of 52 layers, calibrated on 20 images",
        "int8: agreement of its detections with float32 0.910 (1: equal)",
        "int8: bbox AP 0.4900, float32 0.5000, on 9 images",
        "int8: segm AP none, float32 none, on 9 images",
        "int8: 0.100 s per image, float32 0.200 s",
    ]
    unknown = record_of(replace(MADE, agreement=None).to_dict(), least_size=(32, 32)).lines()
    assert unknown[0] == "onnx file in int8: any number of images of any size from 32x32 (height x width)"
    assert unknown[4] == "int8: not compared with float32, because nothing was detected"
    resizes = replace(record_of({}, batch=1, with_resize=True), precision="float32").lines()
    assert resizes[0] == "onnx file in float32: one image of any size, which the file resizes"
    assert resizes[1].startswith("inputs: image; outputs")
    assert len(resizes) == 3
    for damaged in ({"layers": 3}, *(measured | {key: []} for key in ("layers", "images", "ap_int8", "agreement"))):
        assert record_of(damaged).lines()[3] == (
            "int8: how it was made cannot be read; export the checkpoint again with `rcnn export`"
        )


def test_models_show_describes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its settings follow, in the same form as those of its model."""
    onnx = pytest.importorskip("onnx", reason="needs pip install 'rcnn[onnx]'")
    pytest.importorskip("onnxruntime", reason="needs pip install 'rcnn[onnx]'")
    record, path = record_of(MADE.to_dict()), tmp_path / "kites.onnx"
    shape = "float[N, 3, H, W]"
    given, found = (", ".join(f"{shape} {name}" for name in names) for names in (record.inputs, record.outputs))
    body = " ".join(f"{name} = Abs (images)" for name in record.outputs)
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 18]> g ({given}) => ({found}) {{ {body} }}')
    onnx.helper.set_model_props(model, {"rcnn": record.text()})
    onnx.save(model, path)
    assert command("models", "show", path) == 0
    lines = capsys.readouterr().out.splitlines()
    described = [f"# {line}" for line in record.lines()]
    assert lines[: len(described)] == described
    assert command("models", "show", "faster_rcnn_compact") == 0
    settings = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("train.")]
    assert lines[len(described) :] == settings
