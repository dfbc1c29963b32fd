"""What a prediction and a training import: torch's compiler takes longer than all else at the start of a command."""

from __future__ import annotations

import subprocess
import sys

PREDICT = """
import sys
import numpy as np
import rcnn
detector = rcnn.build_detector(rcnn.model_config("mask_rcnn_compact"))
rcnn.Predictor(detector, device="cpu").predict(np.zeros((64, 96, 3), np.uint8)).rles()
print(*(name for name in ("torch._dynamo", "torchvision", "sympy", "matplotlib.pyplot") if name in sys.modules))
import rcnn.training.run  # which has sympy for sharded weights
print(*(name for name in ("torch._dynamo", "torchvision") if name in sys.modules))
import torchvision
torchvision.ops.nms
"""


def test_a_prediction_imports_neither_the_compiler_nor_torchvision() -> None:
    """Nor does the module of training, which each of its processes imports; its optimizers import the compiler."""
    done = subprocess.run([sys.executable, "-c", PREDICT], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
