"""Runs a detector through `torch.compile`: one graph per shape of the padded images.

torch keeps the code that it generates in the folder TORCHINDUCTOR_CACHE_DIR, by default `torchinductor_USER` in the
folder for temporary files. Later processes read it, and compile faster.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Hashable
from importlib.util import find_spec

import torch

from rcnn.models import Detector
from rcnn.structures import Detections, ImageBatch

MAX_GRAPHS = 8  # each takes a minute or more: with a graph for every size of photos, the photos would be done earlier
NO_COMPILER = ("InvalidCxxCompiler", "CppCompileError", "TritonMissing", "GPUTooOldForTriton")  # errors of torch
OR_LEAVE_OUT = "Or leave compile (--compile) out"


class CompiledDetector:
    """A detector that is compiled for the shape of each batch, up to MAX_GRAPHS; further shapes run eagerly."""

    def __init__(
        self, detector: Detector, *, backend: str = "inductor", log: Callable[[str], object] | None = None
    ) -> None:
        """`detector` is ready for inference, on its device. `backend` is that of torch.compile.

        `log` receives a line before and after each compilation.
        """
        self.detector, self.log = detector, log
        self.seconds = dict[Hashable, float]()  # of each compilation, by what its graph depends on
        self._ran_eagerly = False
        self._compiled = torch.compile(detector.predict, fullgraph=True, dynamic=False, backend=backend)

    def predict(self, images: ImageBatch, score: float = 0.0) -> Detections:
        """Detections (B, D) in pixels of the network input, best first; graphs also return those below `score`.

        Raises ImportError if the compiler that torch starts fails.
        """
        pixels = images.pixels
        key = (pixels.shape, pixels.stride(), pixels.dtype, torch.get_num_threads())
        if key in self.seconds:
            return self._compiled(images)
        if len(self.seconds) >= MAX_GRAPHS:
            if not self._ran_eagerly:
                self._print(f"{MAX_GRAPHS} shapes are compiled; images of other shapes are not, see --padding bucket")
            self._ran_eagerly = True
            return self.detector.predict(images, score)
        what = f"{self.detector.config.name} for {' x '.join(map(str, pixels.shape))}"
        self._print(f"compiling {what} ...")
        start = time.perf_counter()
        # torch's default, 8, is for all detectors of the process together, and more would be an error
        with torch._dynamo.config.patch(recompile_limit=256):
            try:
                detections = self._compiled(images)
            except RuntimeError as error:
                explained = _explained(error)
                if explained is None:
                    raise
                raise explained from error
        self.seconds[key] = time.perf_counter() - start
        self._print(f"compiled {what}: {self.seconds[key]:.0f} s")
        return detections

    def _print(self, line: str) -> None:
        if self.log is not None:
            self.log(line)


def require_compiler(device: torch.device) -> None:
    """Raise ImportError if a program or package that torch needs to compile for `device` is missing.

    ValueError for a device that is neither a CPU nor a CUDA GPU.
    """
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"compile (--compile) is for CPUs and CUDA GPUs, not for {device.type}; leave it out")
    if device.type == "cuda" and find_spec("triton") is None:
        raise ImportError(f"compile (--compile) on a GPU needs triton: pip install triton. {OR_LEAVE_OUT}")
    variable, usual, language = "CXX", (_usual_compiler(),), "C++"
    if device.type == "cuda":  # triton compiles a file of C that starts its kernels
        variable, usual, language = "CC", ("gcc", "clang"), "C"
    chosen = os.environ.get(variable)
    names = (chosen,) if chosen else usual
    if not any(shutil.which(name) for name in names):
        raise ImportError(
            f"compile (--compile) needs a {language} compiler, and {' or '.join(names)} was not found. Install it "
            f"(apt install g++, dnf install gcc-c++, xcode-select --install), or name yours in the variable "
            f"{variable}. {OR_LEAVE_OUT}"
        )


def _usual_compiler() -> str:
    """The C++ compiler that torch takes unless CXX names another."""
    return {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")


def _explained(error: RuntimeError) -> ImportError | None:
    """An error that says what to install, if torch's compiler failed for the lack of it; else None."""
    cause = getattr(error, "inner_exception", error)
    if type(cause).__name__ not in NO_COMPILER:
        return None
    lines = str(cause).splitlines()
    reason = next((line.strip() for line in lines if "error:" in line), lines[0] if lines else "")
    return ImportError(
        f"compile (--compile): torch's compiler failed: {reason}. It needs a C++ compiler and Python's headers "
        f"(apt install g++ python3-dev); on a GPU, triton too. {OR_LEAVE_OUT}"
    )
