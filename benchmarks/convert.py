"""Seconds and peak memory of converting a checkpoint of 1 GB: a synthetic one of Detectron2's in three formats.

    python benchmarks/convert.py [--gigabytes 1] [--formats pkl pth pt] [--output benchmarks/results/convert.json]

The file is a Mask R-CNN on R-50 and a pyramid whose box head is so wide that its tensors add up to the size asked for.
The conversion is the whole command, its check of what was written included, in a process of its own; memory is the
largest resident size that the system saw of it, the 0.7 GB of torch's libraries included.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from rcnn.models import build_detector, model_config
from rcnn.models.overrides import override
from rcnn.weights.systems.detectron2.export import settings_of
from rcnn.weights.systems.detectron2.system import to_detectron2

# ending -> what is written; `pt` stands for torch's format before 1.6
FORMATS = {"pkl": "pickle of arrays", "pth": "torch.save", "pt": "torch.save, before 1.6"}


def write_synthetic(path: Path, gigabytes: float) -> int:
    """Write a Detectron2 checkpoint of about `gigabytes` GB and its YAML; return its size in bytes."""
    rest, inputs = 121e6, 256 * 7 * 7  # bytes of the network without its box head; numbers that this is given
    width = round(-inputs / 2 + math.sqrt(inputs**2 / 4 + (gigabytes * 1e9 - rest) / 4))
    config = override(model_config("mask_rcnn_r50_fpn_caffe"), [f"box.fc_width={width}"])
    torch.manual_seed(0)
    state = to_detectron2(build_detector(config).state_dict(), config)
    if path.suffix == ".pkl":
        arrays = {name: value.numpy() for name, value in state.items()}
        with path.open("wb") as file:
            pickle.dump({"model": arrays, "__author__": "benchmark"}, file, protocol=4)
    else:
        torch.save({"model": state, "iteration": 1}, path, _use_new_zipfile_serialization=path.suffix == ".pth")
    path.with_suffix(".yaml").write_text(settings_of(config))
    return path.stat().st_size


def measure(file: Path, output: Path) -> dict[str, Any]:
    """Seconds and peak GB of `rcnn convert file --output output`, of that process alone."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "rcnn.cli.main", "convert", str(file), "--output", str(output)]
    command += ["--config", str(file.with_suffix(".yaml"))]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the conversion of {file.name} ended with status {os.waitstatus_to_exitcode(status)}")
    return {"seconds": round(time.perf_counter() - start, 1), "peak_gb": round(usage.ru_maxrss * 1024 / 1e9, 2)}


def main() -> None:
    """Make the files, convert each, print and keep what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=FORMATS)
    parser.add_argument("--output", type=Path, help="JSON file to write the figures to")
    options = parser.parse_args()
    rows = {}
    for suffix in options.formats:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / f"model_final.{suffix}"
            # in a process of its own: the peak of a child begins with the size of the parent that it was split from
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                size = pool.apply(write_synthetic, (file, options.gigabytes))
            row = {"gb": round(size / 1e9, 3)} | measure(file, Path(folder) / "converted")
        rows[FORMATS[suffix]] = row
        print(f"{FORMATS[suffix]}: {row['gb']} GB in {row['seconds']} s, peak {row['peak_gb']} GB", flush=True)
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    about = {"torch": torch.__version__, "threads": threads, "cpus": os.cpu_count()}
    if options.output is not None:
        options.output.write_text(json.dumps({"files": rows, "machine": about}, indent=2) + "\n")


if __name__ == "__main__":
    main()
