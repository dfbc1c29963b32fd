"""Exports a checkpoint: trace it, translate it, write the file, run the file once and compare.

export_model("runs/balloons", "balloons.onnx")
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
from torch.export import ExportedProgram

from rcnn.arguments import (
    CHECKPOINT,
    MOST_EXPORTED,
    ArgumentTypeError,
    as_path,
    as_text,
    is_one_of,
    is_whole_number,
    require_one_of,
    require_switches,
    shown,
)
from rcnn.export.accuracy import Accuracy, measure_accuracy
from rcnn.export.calibration import find_calibration_images, validation_images
from rcnn.export.check import (
    LOWERED,
    check_file,
    check_resize,
    lower_thresholds,
    none_matched,
    remove_thresholds,
    require_match,
)
from rcnn.export.compare import Difference
from rcnn.export.files import require_packages, store, write_file, write_onnx
from rcnn.export.int8 import write_int8
from rcnn.export.resize import add_resize, unsupported_resize
from rcnn.export.support import unsupported
from rcnn.export.trace import trace
from rcnn.models import Detector
from rcnn.models.inference import prepare_for_inference
from rcnn.models.overrides import Overrides
from rcnn.models.validate import LONGEST_SIDE
from rcnn.outputs import OutputFolder, require_folder, require_space
from rcnn.predictor import Predictor
from rcnn.runtime.record import SUFFIXES, ExportPrecision, ExportRecord, Target, input_names, output_names
from rcnn.weights.checkpoint import load_detector
from rcnn.weights.class_names import require_class_names

Size = Literal["dynamic"] | tuple[int, int]
BYTES: dict[ExportPrecision, int] = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}  # of a weight
GRAPH_BYTES: dict[Target, int] = {"torch": 1_000_000, "onnx": 300_000, "openvino": 1_000_000}  # of the graph and record


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A file that was written."""

    path: Path
    record: ExportRecord
    difference: Difference  # from the detector in PyTorch, on one generated batch; int8: from float32, on real images
    accuracy: Accuracy | None = None  # AP before (int8: of the float32 file) and after; None: not measured
    bytes: int  # of the file; OpenVINO: of both files

    def __str__(self) -> str:
        """The lines that `rcnn export` prints, and the differences that were found when the file was checked."""
        other = "the float32 file" if self.record.precision == "int8" else "PyTorch"
        checked = "not checked: nothing was detected" if self.difference.is_empty else self.difference.text()
        return "\n".join([*self.lines(), f"compared with {other}: {checked}"])

    def lines(self) -> list[str]:
        """The lines that `rcnn export` prints: AP if it was measured, and the file."""
        measured = [] if self.accuracy is None else self.accuracy.lines()
        return [*measured, f"wrote {self.path} ({self.bytes / 1e6:.1f} MB, {self.record.precision})"]


def export_model(
    model: Detector | str | Path,
    output: str | Path,
    *,
    to: Target | None = None,
    size: Size = "dynamic",
    batch: Literal["dynamic"] | int = "dynamic",
    precision: ExportPrecision = "float32",
    calibrate: str | Path | None = None,
    with_resize: bool = False,
    data: str | Path | None = None,
    classes: Sequence[str] = (),
    overrides: Overrides = (),
    allow: str | Sequence[str] = (),
    log: Callable[[str], object] | None = None,
) -> Exported:
    """Write a checkpoint (or detector) as one file that contains everything from pixels to detections.

    `to`: "onnx", "torch" or "openvino"; defaults to the target of the suffix of `output` (.onnx, .pt2, .xml). `size`:
    the padded (height, width), rounded up to the multiple that the model needs; "dynamic": any. `batch`: images per
    run. `precision` of the network: "float32", "float16", "bfloat16" or "int8". `calibrate`, for int8: a data set, or a
    folder of images like those that the model will see. The ranges of the feature maps are computed from these images;
    with annotations, AP before and after is measured and stored in the file. `with_resize`: the file takes one image of
    any size, resizes it approximately like the checkpoint, and returns boxes in pixels of that image. `data`: a data
    set; AP of the checkpoint and of the file is measured on its validation images (int8: use `calibrate`). `classes`:
    class names for a detector. `overrides` and `allow` as in `rcnn.Predictor`. `log` is called with lines about the
    progress; `print` of the result shows AP and the file.

    The file is run once on a generated batch and compared with the model in PyTorch. If no detection matches there,
    e.g. because there are none, a temporary copy with a score threshold of 0 is compared instead.

    Raises ImportError with the pip command for a missing package, ValueError for what cannot be exported and if no
    detection of the file matches (then it is not written), FileExistsError if `output` exists and is not from rcnn.
    """
    path, say = as_path(output, "the output file"), log or (lambda line: None)
    target = target_of(path, to)
    calibrate, data = (
        None if given is None else as_path(given, what, "a data set or a folder of images")
        for given, what in ((calibrate, "calibrate (--calibrate)"), (data, "data (--data)"))
    )
    if log is not None and not callable(cast("object", log)):
        raise ArgumentTypeError(f"log={shown(log, 60)}; expected a function that takes one line, e.g. print, or None")
    require_folder(path.parent)
    require_switches(with_resize=with_resize)
    require_one_of("precision", precision, get_args(ExportPrecision))
    if (precision == "int8") != (calibrate is not None):
        raise ValueError(
            "int8 needs images to calibrate on: --calibrate DIR (calibrate=), a data set or a folder of images"
            if precision == "int8"
            else f"--calibrate (calibrate=) is for --precision int8, but the precision is {precision}"
        )
    if precision == "int8" and data is not None:
        raise ValueError("int8 measures AP on the data set of --calibrate (calibrate=); leave --data (data=) out")
    # files of torch.export have neither a resize nor int8, which is refused below
    require_packages(target, runs_onnx=target != "torch" and (with_resize or precision == "int8"))
    detector, record = _record_of(model, target, precision, classes, overrides, allow)
    if data is not None and record.config.proposals_only:
        raise ValueError(
            f"--data {data} (data=) measures AP, but {record.config.name} returns only proposals, which have no AP; "
            "leave --data out, and measure the average recall of the file with: rcnn eval FILE --data DIR"
        )
    record = _with_shape(record, size, batch)
    if with_resize:
        record = _with_resize(record)
    if reason := unsupported(record.config, target, precision):
        raise ValueError(f"{record.config.name} cannot be exported to {target} in {precision}: {reason}")
    images = None if calibrate is None else find_calibration_images(calibrate, record)
    annotated = None if data is None else validation_images(record, data)
    with OutputFolder(path.parent) as folder:
        names = [path.name] if target != "openvino" else [path.name, path.with_suffix(".bin").name]
        folder.require_free(*names)
        require_space(path, file_bytes(detector, record))
        # OpenVINO converts the weights itself; int8 layers are made from float32 ones
        network = "float32" if target == "openvino" or precision == "int8" else precision
        prepared = prepare_for_inference(detector, network)
        say(f"tracing {record.config.name}")
        program, record = trace(prepared, record)
        accuracy = None
        if target != "torch":
            say("translating the operators to ONNX")
        with folder.writing_together(*names) as temporary:
            if images is not None:
                written = temporary / path.name
                record, difference, accuracy = write_int8(program, record, written, prepared, images, say, path)
                if (alike := record.quantization["agreement"]) is not None:
                    compared = f"agreement {alike:.3f}; {difference.text()}"
                    say(f"int8 compared with float32 on images of {calibrate}: {compared}")
            elif record.with_resize:
                difference = write_with_resize(program, record, temporary / path.name, prepared, say, path)
            else:
                write_file(program, record, temporary / path.name)
                difference = check_file(temporary / path.name, prepared, program, record, say, path)
    if annotated is not None:
        original = Predictor(detector, classes=record.classes, device="cpu")
        accuracy = measure_accuracy(original, path, annotated, ("checkpoint", "file"), say)
    elif record.with_resize:
        say("AP with this resize was not measured: give a data set with --data DIR")
    written = sum(path.with_name(name).stat().st_size for name in names)
    return Exported(path=path, record=record, difference=difference, accuracy=accuracy, bytes=written)


def file_bytes(detector: Detector, record: ExportRecord) -> int:
    """Approximate size of the files, bytes: weights and graph, for OpenVINO with those of the ONNX file before it."""
    weights = sum(value.nbytes for value in detector.state_dict().values())
    written = int(weights * BYTES[record.precision] / 4) + GRAPH_BYTES[record.target]
    return written + (weights if record.target == "openvino" and record.precision != "int8" else 0)


def write_with_resize(
    program: ExportedProgram,
    record: ExportRecord,
    path: Path,
    detector: Detector,
    say: Callable[[str], object],
    output: Path,
) -> Difference:
    """Write the program with a resize in front, as the file `path`; messages name `output`.

    The file without the resize is compared with PyTorch, and the file that was written with the one without it, after
    the exact resize. Raises ValueError if no detection matches.
    """
    with tempfile.TemporaryDirectory(prefix="rcnn-resize-") as name:
        plain, copy = Path(name) / "plain.onnx", Path(name) / f"copy{path.suffix}"
        network = replace(record, target="onnx", with_resize=False)
        _write_pair(program, record, plain, path)
        difference, how = check_file(plain, detector, program, network, say, output), ""
        resized = check_resize(path, plain)
        if not resized.matched:
            say(f"with the resize in the file, {none_matched(resized)} on a generated image: {LOWERED}")
            lower_thresholds(program, remove_thresholds(detector))
            _write_pair(program, record, plain, copy)
            resized, how = check_resize(copy, plain), " with a score threshold of 0"
        require_match(resized, output, "after the exact resize")
        say(f"with the resize in the file, on a generated image{how}: {resized.text()}")
        return difference


def _write_pair(program: ExportedProgram, record: ExportRecord, plain: Path, path: Path) -> None:
    """Write the program as the ONNX file `plain`, and with a resize in front as the file `path`."""
    write_onnx(program, replace(record, target="onnx", with_resize=False), plain)
    whole = plain.with_name("whole.onnx")
    add_resize(plain, record, whole)
    store(whole, record, path)


def target_of(path: Path, to: str | None) -> Target:
    """The target of a file name, which must have the suffix of `to` if that is given."""
    by_suffix = {suffix: target for target, suffix in SUFFIXES.items()}
    expected = ", ".join(f"{suffix} ({target})" for target, suffix in SUFFIXES.items())
    if to is not None and not is_one_of(to, SUFFIXES):
        raise ValueError(f"the target {shown(to, 60)} is not known; expected {', '.join(SUFFIXES)}")
    if to is None and path.suffix in by_suffix:
        return by_suffix[path.suffix]
    own = next((suffix for target, suffix in SUFFIXES.items() if target == to), "")
    if own and path.suffix == own:
        return by_suffix[own]
    if not path.suffix:
        raise ValueError(f"{path} has no suffix; expected {expected}")
    if own:
        raise ValueError(f"--to {to} writes {own}, but --output is {path}")
    raise ValueError(f"{path} has the suffix {path.suffix!r}; expected {expected}")


def _record_of(
    model: Detector | str | Path,
    target: Target,
    precision: ExportPrecision,
    classes: Sequence[str],
    overrides: Overrides,
    allow: str | Sequence[str],
) -> tuple[Detector, ExportRecord]:
    """The detector, and a record with its config and class names."""
    provenance: dict[str, object] = {}
    if not isinstance(model, Detector):
        model = as_text(model, "the model", f"{CHECKPOINT}, or a detector", empty=False)
    if isinstance(model, str):
        model, checkpoint = load_detector(model, overrides, allow=allow)
        classes, provenance = classes or checkpoint.classes, checkpoint.provenance
    elif overrides or allow:
        raise ValueError("overrides and allow are for checkpoints; change a detector's config before building it")
    config = model.config
    classes = classes or tuple(map(str, range(config.num_classes)))
    require_class_names(classes, config.num_classes, "classes (classes=)")
    return model, ExportRecord(
        config=config, classes=tuple(classes), target=target, precision=precision, inputs=input_names(config),
        outputs=output_names(config), provenance=provenance,
    )  # fmt: skip


def _with_resize(record: ExportRecord) -> ExportRecord:
    """The record of a file that takes one image of any size. Raises ValueError if the resize cannot be inside."""
    reason = unsupported_resize(record.config, record.inputs)
    if record.target == "torch":
        reason = "it is a part of ONNX graphs; use --to onnx or --to openvino"
    elif record.precision == "int8":
        reason = "int8 files take prepared images"
    elif record.size is not None or record.batch not in (None, 1):
        reason = "the file takes one image of any size; leave --size and --batch out"
    if reason:
        raise ValueError(f"--with-resize (with_resize=) cannot be used for {record.config.name}: {reason}")
    return replace(record, with_resize=True, batch=1)


def _with_shape(record: ExportRecord, size: Size, batch: Literal["dynamic"] | int) -> ExportRecord:
    """The record with the size and batch of its input. Raises ValueError for values of another form."""
    config = record.config.input
    if not is_one_of(batch, ("dynamic",)) and not (is_whole_number(batch) and 1 <= batch <= MOST_EXPORTED):
        raise ValueError(f"batch={shown(batch, 60)}; expected an int, 1 to {MOST_EXPORTED:,}, or 'dynamic'")
    if isinstance(size, np.ndarray):
        size = tuple(np.atleast_1d(size).tolist())
    if not is_one_of(size, ("dynamic",)) and not _is_pair(size):
        raise ValueError(f"size={shown(size, 60)}; expected (height, width), e.g. (800, 1333), or 'dynamic'")
    if size != "dynamic" and not 32 <= min(size) <= max(size) <= LONGEST_SIDE:
        sides_given = "x".join(shown(side, 30) for side in size)
        raise ValueError(
            f"size={sides_given}; expected a height and width of 32 to {LONGEST_SIDE:,} pixels, or 'dynamic'"
        )
    sides = None if size == "dynamic" else (int(size[0]), int(size[1]))
    if config.canvas:
        canvas = (config.canvas, config.canvas)
        if sides is not None and sides != canvas:
            raise ValueError(
                f"size={sides[0]}x{sides[1]}; {record.config.name} puts images on a canvas of {canvas[0]}x{canvas[1]}: "
                "leave --size (size=) out, or set input.canvas and input.max_size"
            )
        sides = canvas
    if sides is not None and config.divisor:
        height, width = (-(-side // config.divisor) * config.divisor for side in sides)
        sides = (height, width)
    return replace(record, size=sides, batch=None if batch == "dynamic" else int(batch))


def _is_pair(size: object) -> bool:
    """Whether `size` is two integers."""
    return isinstance(size, Sequence) and len(size) == 2 and all(map(is_whole_number, size))
