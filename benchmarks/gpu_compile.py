"""Compiles every Triton kernel for a GPU that need not be here, and prints registers and spills.

    python benchmarks/gpu_compile.py --capability 90

Triton brings NVIDIA's assembler, so this needs neither a GPU nor a driver. About 30 seconds on one core.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from rcnn.ops.kernels import decode_and_clip, keypoints, nms, polygons, ps_roi, roi_align

INT, FLOAT = "i32", "fp32"
LEVELS = 4


def kernels() -> list[tuple[Any, dict[str, Any], dict[str, Any], dict[str, Any]]]:
    """Each kernel, the types of its arguments, its constants, and the options that it is launched with."""
    exact = {"enable_fp_fusion": False}
    pools = [
        (kernel, {name: kind, "maps": (maps,) * LEVELS} | ROI_ALIGN, ROI_CONSTANTS | {"SAMPLING_RATIO": samples}, exact)
        for kind in ("*bf16", "*fp32")
        for samples in (0, 2)
        for kernel, name, maps in (
            (roi_align._pool_kernel, "pooled", kind),
            (roi_align._spread_kernel, "gradient", "*fp32"),
        )
    ]
    return [
        *pools,
        (nms._nms_kernel, NMS, {"TILE": nms.TILE}, exact | {"num_warps": 8}),
        (ps_roi._mean_kernel, {"pooled": "*bf16", "maps": "*bf16"} | PS_ROI, PS_CONSTANTS, {"num_warps": 2}),
        (ps_roi._share_kernel, {"gradient": "*bf16", "maps": "*fp32"} | PS_ROI, PS_CONSTANTS, {"num_warps": 2}),
        (polygons._fill_kernel, POLYGONS, {"SIZE": 28, "BLOCK": 32}, exact),
        (
            keypoints._decode_kernel,
            {"maps": "*bf16", "boxes": "*fp32", "log_sums": "*fp32", "found": "*fp32", "joints": INT},
            {"SIDE": 56, "PATCHES": 64, "SAMPLES": 4096, "COLUMNS": keypoints.COLUMNS},
            {"num_warps": 2},
        ),
        (decode_and_clip._decode_kernel, ANCHORS, {"BLOCK": decode_and_clip.BLOCK}, exact),
    ]


ROI_ALIGN: dict[str, Any] = {
    "boxes": "*fp32",
    "levels": "*i64",
    "valid": "*u8",
    "heights": (INT,) * LEVELS,
    "widths": (INT,) * LEVELS,
    "scales": (FLOAT,) * LEVELS,
    "regions": INT,
    "channels": INT,
}
ROI_CONSTANTS: dict[str, Any] = {
    "LEVELS": LEVELS,
    "SIZE": 7,
    "ALIGNED": True,
    "BLOCK": roi_align.MAX_CHANNELS,
    "ACCUMULATOR": tl.float32,
}
NMS = {"boxes": "*fp32", "groups": "*i64", "valid": "*u8", "valid_count": "*i32", "order": "*i64"}
NMS |= {"kept_boxes": "*fp32", "kept_groups": "*i64", "index": "*i64", "kept": "*u8"}
NMS |= {"number": INT, "capacity": INT, "threshold": FLOAT}
PS_ROI = dict.fromkeys(("tops", "bottoms", "lefts", "rights"), "*i32")
PS_ROI |= dict.fromkeys(("regions", "channels", "height", "width"), INT)
PS_CONSTANTS: dict[str, Any] = {"SIZE": 7, "GROUPS": 7, "BLOCK": 32, "POINTS": 16, "ACCUMULATOR": tl.float32}
POLYGONS = {"polygons": "*fp32", "matched": "*i64", "boxes": "*fp32", "valid": "*u8", "masks": "*fp32"}
POLYGONS |= dict.fromkeys(("regions", "objects", "edges"), INT)
ANCHORS = {"deltas": "*bf16", "anchors": "*fp32", "index": "*i64", "sizes": "*fp32", "boxes": "*fp32"}
ANCHORS |= {"number": INT, "chosen": INT} | dict.fromkeys(("x_weight", "y_weight"), FLOAT)
ANCHORS |= dict.fromkeys(("width_weight", "height_weight", "clamp"), FLOAT)


def resources(cubin: bytes) -> str:
    """Registers per thread, and bytes per thread on the stack, where spilled registers go."""
    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True)
    found = re.search(r"REG:(\d+) STACK:(\d+)", done.stdout + done.stderr)
    return f"{found[1]:>4} registers, {found[2]:>4} bytes of stack" if found else "unknown"


def main() -> None:
    """One line per kernel; an error ends the script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90, help="compute capability, e.g. 90 for H100 and H200")
    options = parser.parse_args()
    for kernel, types, constants, launch in kernels():
        if not hasattr(kernel, "cache_key"):
            parser.error("TRITON_INTERPRET is set: unset it, the interpreter compiles nothing")
        source = ASTSource(
            fn=kernel,
            signature=types | dict.fromkeys(constants, "constexpr"),
            constexprs={(kernel.arg_names.index(name),): value for name, value in constants.items()},
        )
        built = triton.compile(source, target=GPUTarget("cuda", options.capability, 32), options=launch)
        name = f"{kernel.__module__.rsplit('.', 1)[-1]}.{kernel.__name__}"
        print(f"{name:<30} {resources(built.asm['cubin'])}", flush=True)


if __name__ == "__main__":
    main()
