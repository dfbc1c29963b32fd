"""Parameters and GFLOPs of every named model, counted: this writes src/rcnn/models/zoo/sizes.json.

python benchmarks/model_sizes.py
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rcnn.models import MODELS, model_config
from rcnn.models.cost import cost

FILE = Path(__file__).resolve().parents[1] / "src/rcnn/models/zoo/sizes.json"


def main() -> None:
    """Count, and write one line per model."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    lines = []
    for name in sorted(MODELS):
        counted = cost(model_config(name))
        size = {"parameters": counted.parameters, "gflops": round(counted.flops / 1e9, 1)}
        lines.append(f"{json.dumps(name)}: {json.dumps(size)}")
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
