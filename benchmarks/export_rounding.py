"""Which one rounds, PyTorch's float32 or an exported file? Both beside PyTorch in float64, on a generated batch.

    python benchmarks/export_rounding.py --model faster_rcnn_r50_c4 --height 160 --width 224

The weights are random, proposals and detections few.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from export_matrix import CPU, in_float64, small
from rcnn.export.check import images_of
from rcnn.export.compare import compare
from rcnn.export.files import write_file
from rcnn.export.trace import example_inputs, trace
from rcnn.models import build_detector
from rcnn.models.inference import prepare_for_inference
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import SUFFIXES, ExportRecord, Target, input_names, output_names

TARGETS: tuple[Target, ...] = ("onnx", "torch")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="faster_rcnn_r50_c4")
    parser.add_argument("--height", type=int, default=160)
    parser.add_argument("--width", type=int, default=224)
    arguments = parser.parse_args()
    config = small(arguments.model)
    record = ExportRecord(
        config=config, classes=tuple(map(str, range(config.num_classes))), target="torch", batch=2,
        size=(arguments.height, arguments.width), inputs=input_names(config), outputs=output_names(config),
    )  # fmt: skip
    images = images_of(example_inputs(record))
    torch.manual_seed(0)
    detector = build_detector(config).eval()
    prepared = prepare_for_inference(detector)
    largest = {name: round(float(maps.abs().max()), 1) for name, maps in prepared.features(images).items()}
    print(f"largest features {largest}", flush=True)
    exact = in_float64(detector, images)
    found = {"float32": prepared.predict(images), "float32, not prepared": detector.predict(images)}
    program, traced = trace(prepared, record)
    with tempfile.TemporaryDirectory(prefix="rcnn-rounding-") as folder:
        for target in TARGETS:
            path = Path(folder) / f"model{SUFFIXES[target]}"
            write_file(program, replace(traced, target=target), path)
            found[target] = open_exported(path, CPU).predict(images)
    for name, detections in found.items():
        print(f"{name} beside float64: {compare(exact, detections).text()}")
        print(f"{name} beside float32: {compare(found['float32'], detections).text()}", flush=True)


if __name__ == "__main__":
    main()
