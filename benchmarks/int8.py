"""Mask R-CNN R50-FPN in int8 beside bfloat16 and torchvision's float32: same weights, same photo, one process.

    python benchmarks/int8.py --data DIR --split NAME

The model of inference.py, its heads fitted to one photo, is exported by `rcnn.export_model` with precision="int8" to
ONNX and OpenVINO, calibrated on photos of the data set. Each peer is given the decoded photo and gives boxes, scores,
labels and masks at the photo's size. Timed with score threshold 0, so that 100 detections pass through the heads. This
measures speed alone: AP needs trained weights (`rcnn export --precision int8 --calibrate DIR` prints it).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from fitted import fit_heads, new_detector, open_photo, set_score_threshold
from inference import CACHE, PEERS, peers, with_masks
from measure import alternate, write
from rcnn.data import open_dataset
from rcnn.export.files import convert_to_openvino
from rcnn.export.write import export_model
from rcnn.predictor import Predictor
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import Target

FILES: dict[Target, str] = {"onnx": "int8.onnx", "openvino": "int8.xml"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a data set whose photos are used")
    parser.add_argument("--split", required=True)
    parser.add_argument("--photos", type=int, default=16, help="its first photos, for the calibration")
    parser.add_argument("--fit", type=int, default=60, help="steps that fit the heads to the first photo")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--weights", type=Path, default=Path("build/benchmark"), help="folder for weights and files")
    parser.add_argument("--again", action="store_true", help="export again if the ONNX file exists")
    options = parser.parse_args()
    detector = new_detector()
    photo = open_photo(options.data, options.split, 0, detector)
    options.weights.mkdir(parents=True, exist_ok=True)
    cache = options.weights / CACHE
    if not cache.exists():
        fit_heads(detector, photo, options.fit)
        torch.save(detector.state_dict(), cache)
    detector.load_state_dict(torch.load(cache, weights_only=True))
    set_score_threshold(detector, 0.0)
    classes = [str(number) for number in range(detector.config.num_classes)]
    calls = peers(detector, photo, 0.0, PEERS)
    folder = options.weights / "photos"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for record in list(open_dataset(options.data, options.split))[: options.photos]:
        shutil.copy(record.path, folder)
    height, width = photo.images.pixels.shape[2:]
    source = options.weights / FILES["onnx"]
    if options.again or not source.exists():
        export_model(
            detector, source, size=(height, width), batch=1, precision="int8", calibrate=folder, classes=classes,
            log=lambda line: print(line, file=sys.stderr, flush=True),
        )  # fmt: skip
    record = open_exported(source, torch.device("cpu")).record
    # of the same quantized ONNX file, as `rcnn export --to openvino` does
    convert_to_openvino(source, replace(record, target="openvino"), options.weights / FILES["openvino"])
    quantized = {"layers": record.quantization["layers"], "float": len(record.quantization["float_layers"])}
    for target, name in FILES.items():
        predictor = Predictor(options.weights / name)
        calls[f"rcnn int8, {target}"] = lambda predictor=predictor: with_masks(predictor, photo)
    times = alternate(calls, options.repeats)
    seconds = {name: values["median_s"] for name, values in times.items()}
    ratios = {
        f"{name}, times faster than {peer}": seconds[peer] / seconds[name]
        for name in list(calls)[len(PEERS) :]
        for peer in (PEERS[0], PEERS[2])
    }
    values = {
        "model": "mask_rcnn_r50_fpn, torchvision's settings",
        "input": list(photo.images.pixels.shape),
        "layers": quantized,
        "times": times,
        "ratios": ratios,
    }
    print(json.dumps(values, indent=2))
    print(f"wrote {write('int8', 'python benchmarks/int8.py ' + ' '.join(sys.argv[1:]), values)}", file=sys.stderr)


if __name__ == "__main__":
    main()
