"""Mask R-CNN R50-FPN in int8 beside float32, bfloat16 and torchvision: one photo, alternating in one process.

    python benchmarks/int8.py --data DIR --split NAME --repeats 5

The weights are those of inference.py: a random trunk, and heads that are fitted to the photo (a cache is shared). All
layers are int8, with the ranges of this photo, so the figures are about speed; the AP of int8 is measured with trained
weights (docs/results.md). Each peer is given the decoded photo and returns detections with masks, as in inference.py.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fitted import Photo, fit_heads, new_detector, open_photo, set_score_threshold
from inference import CACHE, PEERS, peers, with_masks
from measure import alternate, write
from rcnn.export.compare import agreement
from rcnn.export.files import store, write_onnx
from rcnn.export.quantizer import Quantizer
from rcnn.export.trace import trace
from rcnn.models import Detector
from rcnn.models.inference import prepare_for_inference
from rcnn.predictor import Predictor
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import ExportPrecision, ExportRecord, Target, input_names, output_names

FILES: dict[str, tuple[Target, ExportPrecision, str]] = {
    "onnxruntime float32": ("onnx", "float32", "float32.onnx"),
    "onnxruntime int8": ("onnx", "int8", "int8.onnx"),
    "OpenVINO float32": ("openvino", "float32", "float32.xml"),
    "OpenVINO int8": ("openvino", "int8", "int8.xml"),
}


def write_files(detector: Detector, photo: Photo, folder: Path) -> dict[str, Path]:
    """The detector as float32 and int8 files of the photo's size."""
    config, (height, width) = detector.config, photo.images.pixels.shape[2:]
    record = ExportRecord(
        config=config, classes=tuple(map(str, range(config.num_classes))), target="onnx", size=(height, width), batch=1,
        inputs=input_names(config), outputs=output_names(config),
    )  # fmt: skip
    program, record = trace(prepare_for_inference(detector), record)
    sources = {"float32": folder / "source.onnx", "int8": folder / "quantized.onnx"}
    write_onnx(program, record, sources["float32"])
    model = open_exported(sources["float32"], torch.device("cpu"))
    Quantizer(sources["float32"], [model.inputs(photo.images)]).write(sources["int8"])
    for target, precision, name in FILES.values():
        store(sources[precision], replace(record, target=target, precision=precision), folder / name)
    return {name: folder / file for name, (_, _, file) in FILES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set whose photo is used")
    parser.add_argument("--split", required=True)
    parser.add_argument("--image", type=int, default=0, help="which of its images")
    parser.add_argument("--fit", type=int, default=60, help="steps that fit the heads to the photo")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weights", type=Path, default=Path("build/benchmark"), help="folder for the fitted weights")
    options = parser.parse_args()
    detector = new_detector()
    photo = open_photo(options.data, options.split, options.image, detector)
    cache = options.weights / CACHE
    if not cache.exists():
        fit_heads(detector, photo, options.fit)
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.save(detector.state_dict(), cache)
    detector.load_state_dict(torch.load(cache, weights_only=True))
    set_score_threshold(detector, 0.0)
    with tempfile.TemporaryDirectory(prefix="rcnn-int8-") as folder:
        files = write_files(detector, photo, Path(folder))
        megabytes = {name: round(path.with_suffix(".bin").stat().st_size / 1e6) if path.suffix == ".xml" else
                     round(path.stat().st_size / 1e6) for name, path in files.items()}  # fmt: skip
        models = {name: open_exported(path, torch.device("cpu")) for name, path in files.items()}
        expected = models["onnxruntime float32"].predict(photo.images)
        alike = {name: round(agreement(expected, model.predict(photo.images)), 3) for name, model in models.items()}
        del models
        calls: dict[str, Any] = peers(detector, photo, 0.0)
        for name, path in files.items():
            predictor = Predictor(path, device="cpu")
            calls[name] = lambda predictor=predictor: with_masks(predictor, photo)
        times = alternate(calls, options.repeats)
    seconds = {name: value["median_s"] for name, value in times.items()}
    ratios = {
        peer: {name: round(seconds[peer] / seconds[name], 2) for name in FILES if name.endswith("int8")}
        for peer in PEERS
    }
    path = write(
        "int8",
        "python benchmarks/int8.py " + " ".join(sys.argv[1:]),
        {
            "model": "mask_rcnn_r50_fpn, torchvision's settings",
            "input": list(photo.images.pixels.shape),
            "times": times,
            "times_faster_than": ratios,
            "megabytes": megabytes,
            "agreement_with_float32": alike,
        },
    )
    print(json.dumps({"faster than": ratios, "seconds": seconds, "MB": megabytes, "agreement": alike}, indent=2))
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
