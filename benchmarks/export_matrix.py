"""Exports every model to every target, compares each file with PyTorch, and writes the table of docs/deploy.md.

    python benchmarks/export_matrix.py --models mask_rcnn_compact rpn_r50_fpn

`make export-matrix` runs it with --again for all models (hours on 2 cores). With neither --models nor --again, models
that have results are skipped. The weights are random, proposals and detections few. Each file takes any size and
batch, and is compared at three of them and with images without a pixel. A model that can only be traced with a fixed
size and batch is exported so. The results are kept in benchmarks/results/export_matrix.json, one model at a time.
"""

from __future__ import annotations

import argparse
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
from torch.export import ExportedProgram

from rcnn.export.check import images_of
from rcnn.export.compare import Difference, compare, joined
from rcnn.export.files import write_file
from rcnn.export.support import unsupported
from rcnn.export.trace import example_inputs, trace
from rcnn.models import Detector, DetectorConfig, build_detector, list_models, model_config
from rcnn.models.inference import prepare_for_inference
from rcnn.models.overrides import override
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import SUFFIXES, ExportRecord, Target, input_names, output_names

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "export_matrix.json"
PAGE = ROOT / "docs" / "deploy.md"
BEGIN, END = "<!-- matrix: written by benchmarks/export_matrix.py -->\n", "<!-- end of the matrix -->\n"
TARGETS: tuple[Target, ...] = get_args(Target)
TOLERANCES = {"boxes": 0.01, "scores": 1e-4, "masks": 1e-3, "keypoints": 0.01}
SHAPES = ((1, (128, 128)), (4, (160, 224)), (2, (256, 128)))  # images, padded (height, width)
CPU = torch.device("cpu")


class Cell(TypedDict):
    """One model and target."""

    status: str  # yes, differs, unsupported, failed
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
    torch.manual_seed(0)
    detector = prepare_for_inference(build_detector(config).eval())
    record = ExportRecord(
        config=config, classes=tuple(map(str, range(config.num_classes))), target="torch",
        inputs=input_names(config), outputs=output_names(config),
    )  # fmt: skip
    if config.input.canvas:
        record = replace(record, size=(config.input.canvas, config.input.canvas))
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
                write_file(program, replace(record, target=target), path)
                found[target] = cell_of(difference_of(path, detector), fixed)
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


def difference_of(path: Path, detector: Detector) -> Difference:
    """The differences from PyTorch at several sizes and batches, and for images without a pixel."""
    model = open_exported(path, CPU)
    record, parts = model.record, list[Difference]()
    for count, size in SHAPES:
        least = max(size[0], record.least_size[0]), max(size[1], record.least_size[1])
        images = images_of(example_inputs(replace(record, batch=record.batch or count, size=record.size or least)))
        for one in (images, replace(images, sizes=torch.zeros_like(images.sizes))):
            parts.append(compare(detector.predict(one), model.predict(one)))
    return joined(parts)


def cell_of(difference: Difference, fixed: str = "") -> Cell:
    """What a comparison with PyTorch says; `fixed`: a reason why the file has a fixed size and batch."""
    if not difference.matched:
        return Cell(status="failed", reason="nothing is detected")
    reasons: list[str] = []
    for name, most in TOLERANCES.items():
        value: float | None = getattr(difference, name)
        if value is not None and value > most:
            reasons.append(f"{name} by up to {value:.2g}{' px' if name in ('boxes', 'keypoints') else ''}")
    if difference.unmatched:
        count = difference.matched + difference.unmatched
        reasons.append(f"{difference.unmatched} of {count} detections have no match")
    return Cell(status="differs" if reasons else "yes", reason=", ".join([*reasons, *([fixed] if fixed else [])]))


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
