"""int8 by post-training quantization: calibrate on the user's images, keep sensitive layers in float, measure.

    record, difference = write_int8(program, record, path, detector, find_calibration_images("photos/", record), print)

The layers that stay in float are chosen by measurement: the network is divided into parts, each part in turn is kept in
float, and the detections are compared with those of the float file. The parts that raise the agreement most stay in
float.
"""

from __future__ import annotations

import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from rcnn.commands import as_typed
from rcnn.data.messages import counted, few
from rcnn.export.accuracy import Accuracy, measure_accuracy
from rcnn.export.calibration import CalibrationImages, batches, spread
from rcnn.export.check import check_file
from rcnn.export.compare import Difference, agreement, compare, joined
from rcnn.export.files import store, write_onnx
from rcnn.export.quantizer import Quantizer
from rcnn.metrics.values import Number
from rcnn.models import Detector
from rcnn.predictor import Predictor
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import ExportRecord

CALIBRATED = 64  # images from which the ranges of the feature maps are computed
COMPARED = 12  # images on which detections are compared with those of the float file
TIMED = 5  # timed runs of each file
PARTS = 12  # parts of the network that are kept in float in turn
FLOAT_PARTS = 4  # upper limit of parts that stay in float
ENOUGH = 0.96  # agreement with the float file at which no more parts are kept in float
LOW = 0.7  # an agreement below it gets a warning; D2Go's Mask R-CNN has .87, and loses .0021 of box AP
FEW = 10  # fewer images to calibrate on get a warning


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """How a file was quantized, and the loss of accuracy; stored in the file's record."""

    images: int  # from which the ranges were computed
    layers: int  # convolutions and linear layers that can be int8
    float_layers: tuple[str, ...] = ()  # those that stay in float
    agreement: float | None = None  # of the detections with those of the float file, 0 to 1; None: nothing detected
    ap_images: int = 0  # images on which AP was measured; 0: not measured
    ap_float32: dict[str, Number] | None = None  # AP per kind of result, e.g. {"bbox": 0.38}
    ap_int8: dict[str, Number] | None = None
    seconds_float32: float = 0.0  # per image, median
    seconds_int8: float = 0.0

    @property
    def accuracy(self) -> Accuracy | None:
        """AP of the float32 and the int8 file; None: not measured."""
        if self.ap_float32 is None or self.ap_int8 is None:
            return None
        return Accuracy(images=self.ap_images, models=("float32", "int8"), before=self.ap_float32, after=self.ap_int8)

    def to_dict(self) -> dict[str, Any]:
        """The values as JSON, for the file's record."""
        return asdict(self) | {"float_layers": list(self.float_layers)}


def write_int8(
    program: ExportedProgram,
    record: ExportRecord,
    path: Path,
    detector: Detector,
    images: CalibrationImages,
    say: Callable[[str], object],
    output: Path,
) -> tuple[ExportRecord, Difference, Accuracy | None]:
    """Write the program of `detector`, prepared for inference, as an int8 file for onnxruntime or OpenVINO.

    Returns the record with the measurements, the differences between the detections of the int8 file and the float32
    file on the user's images, and AP of both if the images have annotations. The float32 file is first compared with
    PyTorch; messages name `output`.
    """
    with tempfile.TemporaryDirectory(prefix="rcnn-int8-") as name:
        folder = Path(name)
        source, quantized = folder / "float32.onnx", folder / "int8.onnx"
        float_record = replace(record, target="onnx", precision="float32")
        write_onnx(program, float_record, source)
        say("float32 file:")
        check_file(source, detector, program, float_record, say, output)
        how = quantize(source, quantized, images, say)
        files = source, quantized
        if record.target == "openvino":
            files = folder / "float32.xml", folder / "int8.xml"
            store(source, replace(record, precision="float32"), files[0])
            store(quantized, record, files[1])
        how, difference = compare_files(*files, images, how, output)
        how = measure(*files, images, how, say)
        record = replace(record, quantization=how.to_dict())
        store(quantized, record, path)
    return record, difference, how.accuracy


def quantize(source: Path, output: Path, images: CalibrationImages, say: Callable[[str], object]) -> Quantization:
    """Write the ONNX file `source` (float32) as `output` (int8); returns how it was quantized.

    Warns about images that cannot be read, which are skipped, if there are few images, and if nothing is detected on
    COMPARED of them: then all layers are int8. Raises ValueError if no image can be read.
    """
    predictor = Predictor(source, device="cpu")
    model = open_exported(source, torch.device("cpu"))
    files = calibrated_files(images)
    say(f"calibrating on {counted(len(files), 'image')}")
    failed = list[str]()
    quantizer = Quantizer(source, (model.inputs(one) for one in batches(predictor, files, failed)))
    used = len(files) - len(failed)
    if failed:
        warnings.warn(
            f"{len(failed)} of {counted(len(files), 'image')} to calibrate on cannot be read and are not used: "
            f"{few(failed)}",
            stacklevel=2,
        )
    if used < FEW:
        warnings.warn(
            f"the int8 ranges are computed from {counted(used, 'image')}; expected {FEW} or more, like those that the "
            f"model will see (up to {CALIBRATED} are used). Give more images with --calibrate (calibrate=)",
            stacklevel=2,
        )
    compared = [(one, model.predict(one)) for one in batches(predictor, compared_files(images))]
    compared = [(one, expected) for one, expected in compared if bool(expected.valid.any())]
    float_layers: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory(prefix="rcnn-int8-") as folder:
        trial = Path(folder) / source.name

        def measured(float_layers: Sequence[str]) -> float:
            quantizer.write(trial, float_layers)
            quantized = open_exported(trial, torch.device("cpu"))
            return statistics.fmean(agreement(expected, quantized.predict(one)) for one, expected in compared)

        if compared:
            float_layers = choose_float_layers(quantizer.layers, measured, say)
    quantizer.write(output, float_layers)
    return Quantization(images=used, layers=len(quantizer.layers), float_layers=float_layers)


def calibrated_files(images: CalibrationImages) -> list[Path]:
    """CALIBRATED of the images: those from which the ranges are computed."""
    return spread(images.files, CALIBRATED)


def compared_files(images: CalibrationImages) -> list[Path]:
    """COMPARED of the images that are calibrated on."""
    return spread(calibrated_files(images), COMPARED)


def compare_files(
    source: Path, written: Path, images: CalibrationImages, how: Quantization, output: Path
) -> tuple[Quantization, Difference]:
    """`how` with the agreement of the detections of the files `source` (float32) and `written` (int8), and differences.

    They are compared on COMPARED images; those on which neither detects anything do not count. Warns of an agreement
    below LOW, and if nothing is detected on any image. Messages name the file `output`.
    """
    predictor, device = Predictor(source, device="cpu"), torch.device("cpu")
    first, second = (open_exported(file, device) for file in (source, written))
    pairs = [(first.predict(one), second.predict(one)) for one in batches(predictor, compared_files(images))]
    alike = [agreement(a, b) for a, b in pairs if bool(a.valid.any() | b.valid.any())]
    if not alike:
        warnings.warn(
            f"{output} was not compared with float32, and all its layers are int8: nothing is detected on "
            f"{counted(len(pairs), 'image')} of --calibrate (calibrate=). Expected images with objects of the model, "
            "or a lower box.score_threshold",
            stacklevel=2,
        )
        return how, joined([compare(*pair) for pair in pairs])
    mean = statistics.fmean(alike)
    if mean < LOW:
        command = as_typed("rcnn", "eval", output, "--data", "DIR")
        warnings.warn(
            f"the agreement of the detections of {output} with those of the float32 file is only {mean:.2f} (1: equal; "
            f"expected {LOW} or more). Measure its AP ({command}), calibrate on more images like those that it will "
            "see, or use --precision float16 (precision=)",
            stacklevel=2,
        )
    return replace(how, agreement=round(mean, 4)), joined([compare(*pair) for pair in pairs])


def choose_float_layers(
    layers: Sequence[str], measured: Callable[[Sequence[str]], float], say: Callable[[str], object]
) -> tuple[str, ...]:
    """The layers to keep in float: none if the agreement is enough, else the parts that raise it most.

    `measured` returns the agreement of the network with the given layers in float, the others in int8.
    """
    whole = measured(())
    say(f"all {len(layers)} layers in int8: agreement with float32 {whole:.3f}")
    if whole >= ENOUGH or not layers:
        return ()
    count = min(PARTS, len(layers))
    bounds = [index * len(layers) // count for index in range(count + 1)]
    parts = [tuple(layers[first:last]) for first, last in pairwise(bounds)]
    say(f"keeping each of {count} parts in float in turn")
    alone = {part: measured(part) for part in parts}  # agreement with only this part in float
    best, kept = whole, ()
    for part in sorted(parts, key=lambda part: -alone[part])[:FLOAT_PARTS]:
        tried = tuple(layer for layer in layers if layer in {*kept, *part})
        reached = measured(tried) if kept else alone[part]
        if reached <= best:
            continue
        best, kept = reached, tried
        say(f"{len(kept)} of {len(layers)} layers in float: agreement {best:.3f}")
        if best >= ENOUGH:
            break
    return kept


def measure(
    source: Path, output: Path, images: CalibrationImages, how: Quantization, say: Callable[[str], object]
) -> Quantization:
    """`how` with seconds per image, and AP if there are annotations, of the files `source` (float32) and `output`."""
    seconds = seconds_per_image([source, output], images)
    how = replace(how, seconds_float32=round(seconds[0], 4), seconds_int8=round(seconds[1], 4))
    ratio = seconds[0] / seconds[1]
    how_fast = f"{ratio:.2f} times as fast" if ratio >= 1 else "int8 is slower than float32 on this machine"
    say(f"float32 {seconds[0]:.3f} s, int8 {seconds[1]:.3f} s per image ({how_fast})")
    if images.annotated is None:
        say("AP was not measured: the images have no annotations")
        return how
    before = Predictor(source, device="cpu")
    if before.config.proposals_only:
        say("AP was not measured: the model returns only proposals, which have none")
        return how
    if not {images.annotated.folder / name for name in images.annotated.file_names}.isdisjoint(images.files):
        say("AP is measured on images of the calibration, because the data set has no other split: it may be too high")
    accuracy = measure_accuracy(before, output, images.annotated, ("float32", "int8"), say)
    return replace(how, ap_images=accuracy.images, ap_float32=accuracy.before, ap_int8=accuracy.after)


def seconds_per_image(files: Sequence[Path], images: CalibrationImages) -> list[float]:
    """Median seconds per image of each exported file, for full batches, alternating between the files."""
    models = [open_exported(file, torch.device("cpu")) for file in files]
    predictor = Predictor(files[0], device="cpu")
    batch = next(batches(predictor, images.files))
    times: list[list[float]] = [[] for _ in files]
    for repeat in range(1 + TIMED):  # the first one warms up
        for model, own in zip(models, times, strict=True):
            started = time.perf_counter()
            model.predict(batch)
            if repeat:
                own.append((time.perf_counter() - started) / (model.record.batch or 1))
    return [statistics.median(own) for own in times]
