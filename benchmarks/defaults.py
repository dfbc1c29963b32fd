"""The defaults of `rcnn train MODEL --data DIR` beside the tuned commands of the docs: mean mask AP over seeds.

    python benchmarks/defaults.py --data DIR [--d2go CHECKPOINT] [--output RUNS] [--seeds 3] [--only fruits] [--list]

DIR has the folders balloon, fruits_nuts and labelme24. Each run is a process of its own, one after the other; runs that
are finished are not repeated, so the script can be stopped and started again. The exit status is 1 if a default is more
than a standard error below a tuned command.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

LITE, COMPACT = "mask_rcnn_lite0_fpn", "mask_rcnn_compact"
DEMO = ["train.batch_size=8", "train.reference_batch=8", "train.optimizer=adamw", "train.lr=0.002", "train.steps=1000"]
D2GO = [
    "input.min_size=640", "input.max_size=1000", "rpn.proposals.post_nms=200", "train.scales=[320,400,480]",
    "train.steps=120", "backbone.frozen_blocks=8",
]  # fmt: skip
TUNED = {"d2go": {"training.md": D2GO}, LITE: {"tutorial.md": ["train.steps=200"]}, COMPACT: {"demo": DEMO}}
SETS = ("fruits_nuts", "balloon", "labelme24")


def best_mask_ap(run: Path) -> float | None:
    """The best mask AP of a run that has finished or ended early; None for another one."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] if run.exists() else []
    values = [line["segm_AP"] for line in lines if line.get("segm_AP") is not None]
    return max(values) if values and (run / "finished").exists() else None


def trained(words: list[str], run: Path) -> float:
    """The best mask AP of `rcnn train` with `words`; a run that was stopped is continued."""
    if (value := best_mask_ap(run)) is not None:
        return value
    resume = ["--resume"] if (run / "last").exists() else []
    command = [sys.executable, "-m", "rcnn", "train", *words, "--output", str(run), "train.pictures=0", *resume]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"RCNN_OFFLINE": "1"})
    (run / "finished").touch()
    found = best_mask_ap(run)
    assert found is not None, run
    return found


def shown(values: list[float]) -> str:
    """Mean and standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.3f} ± {error:.3f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--d2go", default="", help="D2Go's Mask R-CNN, converted; left out without it")
    parser.add_argument("--output", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="a part of the names of the sets or models")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    arguments = parser.parse_args()
    worse = False
    for data in SETS:
        for model, tuned in TUNED.items():
            if arguments.only not in f"{data} {model}" or (model == "d2go" and not arguments.d2go):
                continue
            results: dict[str, list[float]] = {}
            for name, words in {"default": list[str](), **tuned}.items():
                start = [arguments.d2go if model == "d2go" else model, "--data", str(arguments.data / data), *words]
                for seed in range(arguments.seeds):
                    command = [*start, f"train.seed={seed}"]
                    if arguments.list:
                        print("rcnn train", *command)
                        continue
                    run = arguments.output / f"{data}-{model}-{name}-{seed}"
                    results.setdefault(name, []).append(trained(command, run))
            for name, values in results.items():
                print(f"| {data} | {model} | {name} | {shown(values)} |", flush=True)
                error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
                worse |= statistics.mean(results["default"]) < statistics.mean(values) - error
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
