"""Inference beside its floor: the time of its convolutions and matrix products alone.

    python benchmarks/floors.py --models fcis_r101_coco cascade_mask_rcnn_r50_fpn mask_rcnn_r50_c4

Random weights, one generated photo of 480 x 640 pixels, score threshold 0 where the model has one. The floor is the
sum of the times of all convolutions and products of one call, measured at each of them; the call itself is timed
without that. Products inside RoIAlign are not counted: they are a way to interpolate.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from measure import write
from rcnn.bench.clock import Clock
from rcnn.bench.subjects import OurSubject, Request, photo
from rcnn.models.inference import Precision

PRODUCTS = ("conv", "addmm", "mm", "bmm", "baddbmm", "linear")  # parts of the names of operators


def is_product(name: str) -> bool:
    """Whether an operator of this name is a convolution or a product of matrices; upsample_bilinear2d is neither."""
    return any(part in name for part in PRODUCTS) and "upsample" not in name


class Floor(TorchDispatchMode):
    """Adds up the seconds of convolutions and products, by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        start = time.perf_counter()
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        if is_product(name):
            self.seconds[name] += time.perf_counter() - start
        return result


def measured(model: str, precision: Precision, repeats: int) -> dict[str, Any]:
    """Medians in seconds: of the whole, its stages, and its floor."""
    subject = Request(model=model).subject(f"rcnn {precision}")
    assert isinstance(subject, OurSubject)
    file, device = photo(None), torch.device("cpu")
    wholes: list[dict[str, float]] = []
    floors: list[dict[str, float]] = []
    for _ in range(repeats + 1):
        clock = Clock(device)
        with clock("whole"):
            subject([file], clock)
        wholes.append(clock.seconds)
        with Floor() as floor:
            subject([file], Clock(device))
        floors.append(dict(floor.seconds))
    stages = {name: median(one[name] for one in wholes[1:]) for name in wholes[0]}
    operators = {name: median(one.get(name, 0.0) for one in floors[1:]) for name in floors[1]}
    floor_seconds = sum(operators.values())
    network = sum(stages[name] for name in ("backbone", "rpn", "heads"))
    return {
        "stages_s": stages,
        "floor_s": floor_seconds,
        "operators_s": operators,
        "times_its_floor": network / floor_seconds,
    }


def main() -> None:
    """Each model in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, help="names of models")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    values = {name: measured(name, options.precision, options.repeats) for name in options.models}
    print(json.dumps(values, indent=2))
    for name, one in values.items():
        print(f"{name}: {one['times_its_floor']:.2f} times its floor of {one['floor_s']:.3f} s", file=sys.stderr)
    write("floors", "python benchmarks/floors.py " + " ".join(sys.argv[1:]), {"models": values})


if __name__ == "__main__":
    main()
