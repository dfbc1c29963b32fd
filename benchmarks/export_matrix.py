"""Exports every model to every target, compares each file with PyTorch, and writes the table of docs/deploy.md.

    python benchmarks/export_matrix.py --models mask_rcnn_compact rpn_r50_fpn

`make export-matrix` runs it with --again for all models (hours on 2 cores). With neither --models nor --again, models
that have results are skipped. The weights are random with settled norms, proposals and detections few. Each file takes
any size and batch, and is compared at three of them and with images without a pixel. If it differs by more than the
tolerances, both are compared with PyTorch in float64: random weights make small differences of rounding large. A model
that can only be traced with a fixed size and batch is exported so. The results are kept in
benchmarks/results/export_matrix.json, one model at a time.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, get_args

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fitted import settle_norms
from rcnn.export.check import images_of
from rcnn.export.compare import Difference, compare, joined
from rcnn.export.files import convert_to_openvino, write_file
from rcnn.export.support import unsupported
from rcnn.export.trace import example_inputs, trace
from rcnn.models import Detector, DetectorConfig, build_detector, list_models, model_config
from rcnn.models.inference import prepare_for_inference
from rcnn.models.overrides import override
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import SUFFIXES, ExportRecord, Target, input_names, output_names
from rcnn.structures import Detections, ImageBatch

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "export_matrix.json"
PAGE = ROOT / "docs" / "deploy.md"
BEGIN, END = "<!-- matrix: written by benchmarks/export_matrix.py -->\n", "<!-- end of the matrix -->\n"
TARGETS: tuple[Target, ...] = get_args(Target)
TOLERANCES = {"boxes": 0.01, "scores": 1e-4, "masks": 1e-3, "keypoints": 0.01}
ROUNDING = 2.0
SHAPES = ((1, (128, 128)), (4, (160, 224)), (2, (256, 128)))  # images, padded (height, width)
CPU = torch.device("cpu")


class Cell(TypedDict):
    """One model and target."""

    status: str  # yes, rounding, differs, unsupported, failed
    reason: str  # of all but yes


Matrix = dict[str, dict[str, Cell]]


def read_results() -> Matrix:
    """The results so far, by model and target."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def small(name: str) -> DetectorConfig:
    """The config of a model with few proposals and detections, which have any score."""
    config = model_config(name)
    settings = ["rpn.proposals.post_nms=40"]
    if config.fcis is not None:
        settings += ["fcis.max_detections=20", "fcis.score_threshold=0"]
    elif not config.proposals_only:
        settings += ["box.score_threshold=0", "box.selection.max_detections=20"]
    return override(config, settings)


def cells_of(name: str) -> dict[str, Cell]:
    """The cells of one model; it is traced once. Masks of FCIS are not voted on where that is unsupported."""
    config = small(name)
    found: dict[str, Cell] = {}
    record = ExportRecord(
        config=config, classes=tuple(map(str, range(config.num_classes))), target="torch",
        inputs=input_names(config), outputs=output_names(config),
    )  # fmt: skip
    if config.input.canvas:
        record = replace(record, size=(config.input.canvas, config.input.canvas))
    torch.manual_seed(0)
    detector = build_detector(config)
    settle_norms(detector, noise(record, *SHAPES[1]))
    detector = prepare_for_inference(detector)
    try:
        program, record, fixed = trace_any(detector, record)
    except ValueError as error:
        return {target: Cell(status="failed", reason=str(error)) for target in TARGETS}
    with tempfile.TemporaryDirectory(prefix="rcnn-matrix-") as folder:
        for target in TARGETS:
            if reason := unsupported(config, target, "float32"):
                found[target] = Cell(status="unsupported", reason=reason)
                continue
            path = Path(folder) / f"model{SUFFIXES[target]}"
            try:
                if target == "openvino":  # as write_file does, but the ONNX file is there already
                    convert_to_openvino(path.with_suffix(SUFFIXES["onnx"]), replace(record, target=target), path)
                else:
                    write_file(program, replace(record, target=target), path)
                found[target] = cell_of(*differences_of(path, detector), fixed=fixed)
            except Exception as error:  # an answer like any other
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
                found[target] = Cell(status="failed", reason=reason)
    return found


def trace_any(detector: Detector, record: ExportRecord) -> tuple[ExportedProgram, ExportRecord, str]:
    """The program and its record, with any size and batch if possible; else the third value says why they are fixed."""
    try:
        return *trace(detector, record), ""
    except ValueError as error:
        fixed = replace(record, size=record.size or SHAPES[1][1], batch=2)
        return *trace(detector, fixed), f"only with a fixed --size and --batch ({str(error)[:100]})"


def differences_of(path: Path, detector: Detector) -> tuple[Difference, Difference | None, Difference | None]:
    """The differences of a file from PyTorch at several sizes and batches, and for images without a pixel.

    Where they exceed the tolerances, the second is the file's difference from PyTorch in float64, and the third that of
    PyTorch in float32; else both are None.
    """
    model = open_exported(path, CPU)
    record, tried = model.record, list[ImageBatch]()
    for count, size in SHAPES:
        images = noise(record, count, size)
        tried += [images, replace(images, sizes=torch.zeros_like(images.sizes))]
    ours, files = [detector.predict(one) for one in tried], [model.predict(one) for one in tried]
    difference = between(ours, files)
    if not exceeded(difference) and not difference.unmatched:
        return difference, None, None
    exact = [in_float64(detector, one) for one in tried]
    return difference, between(exact, files), between(exact, ours)


def noise(record: ExportRecord, count: int, size: tuple[int, int]) -> ImageBatch:
    """Random images of a batch and a size that the file takes."""
    least = max(size[0], record.least_size[0]), max(size[1], record.least_size[1])
    return images_of(example_inputs(replace(record, batch=record.batch or count, size=record.size or least)))


def between(expected: Sequence[Detections], found: Sequence[Detections]) -> Difference:
    """The differences of several batches."""
    return joined([compare(one, other) for one, other in zip(expected, found, strict=True)])


@torch.no_grad()
def in_float64(detector: Detector, images: ImageBatch) -> Detections:
    """The detections of a network in float64."""

    def widened(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(value.double() for value in inputs)

    wide = copy.deepcopy(detector).double()
    wide.backbone.register_forward_pre_hook(widened)
    return wide.predict(images)


def exceeded(difference: Difference) -> dict[str, float]:
    """The values that are larger than their tolerances, by name."""
    values: dict[str, float | None] = {name: getattr(difference, name) for name in TOLERANCES}
    return {name: value for name, value in values.items() if value is not None and value > TOLERANCES[name]}


def cell_of(
    difference: Difference, file_exact: Difference | None = None, ours_exact: Difference | None = None, fixed: str = ""
) -> Cell:
    """What the comparisons say.

    `difference`: of the file from PyTorch; `file_exact` and `ours_exact`: of both from float64; `fixed`: why the file
    has a fixed size and batch. "rounding": the file is within the tolerances of float64, or at most ROUNDING times as
    far from it as PyTorch in float32.
    """
    if not difference.matched:
        return Cell(status="failed", reason="nothing is detected")
    reasons = [f"{name} by up to {_value(name, value)}" for name, value in exceeded(difference).items()]
    if difference.unmatched:
        reasons.append(
            f"{difference.unmatched} of {difference.matched + difference.unmatched} detections have no match"
        )
    status = "differs" if reasons else "yes"
    if reasons and file_exact is not None and ours_exact is not None:
        both = [
            (name, getattr(file_exact, name), getattr(ours_exact, name))
            for name in {**exceeded(difference), **exceeded(file_exact)}
        ]
        if file_exact.unmatched <= ours_exact.unmatched and all(
            file <= max(TOLERANCES[name], ROUNDING * ours) for name, file, ours in both
        ):
            status = "rounding"
        values = [f"{name} {_value(name, file)} and {_value(name, ours)}" for name, file, ours in both]
        if difference.unmatched:
            values.append(f"without a match {file_exact.unmatched} and {ours_exact.unmatched}")
        reasons[-1] += f" (beside float64, the file and PyTorch: {', '.join(values)})"
    return Cell(status=status, reason=", ".join([*reasons, *([fixed] if fixed else [])]))


def _value(name: str, value: float) -> str:
    return f"{value:.2g}{' px' if name in ('boxes', 'keypoints') else ''}"


def table(matrix: Matrix) -> str:
    """The matrix in Markdown: one line per model of the zoo; cells without a result are "not run"."""
    lines = [f"| model | {' | '.join(TARGETS)} |", "|---" * (1 + len(TARGETS)) + "|"]
    for name in list_models():
        texts = [_text(matrix.get(name, {}).get(target)) for target in TARGETS]
        lines.append(f"| `{name}` | {' | '.join(texts)} |")
    return "\n".join([*lines, ""])


def _text(cell: Cell | None) -> str:
    if cell is None:
        return "not run"
    return cell["status"] + (f": {cell['reason']}" if cell["reason"] else "")


def page_with(text: str, page: str) -> str:
    """The page with a new table."""
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: BEGIN + text + END, page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", help="names; default: all")
    parser.add_argument("--again", action="store_true", help="also those that have results")
    arguments = parser.parse_args()
    names: Sequence[str] = arguments.models or list_models()
    for name in names:
        if name not in read_results() or arguments.again or arguments.models:
            started = time.monotonic()
            cells = cells_of(name)
            matrix = read_results() | {name: cells}  # read now: another run may have added to it
            RESULTS.write_text(json.dumps(dict(sorted(matrix.items())), indent=1) + "\n", encoding="utf-8")
            print(
                f"{time.monotonic() - started:.0f} s",
                name,
                {target: _text(cell) for target, cell in cells.items()},
                flush=True,
            )
            gc.collect()
    PAGE.write_text(page_with(table(read_results()), PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
