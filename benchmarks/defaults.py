"""The defaults of `rcnn train MODEL --data DIR` beside the tuned commands of the docs: mean mask AP over seeds.

    python benchmarks/defaults.py --data DIR [--d2go CHECKPOINT] [--output RUNS] [--seeds 3] [--only fruits] [--list]

DIR has the folders balloon, fruits_nuts and labelme24 (made by benchmarks/labelme24.py). Each run is a process of its
own, one after the other, seed by seed, so that a comparison that is stopped has pairs with the same seeds.
RUNS/results.jsonl has one line per finished run; these are not repeated, so the script can be stopped and started
again. The AP of the last evaluation is compared: the best one of a run with more evaluations is higher by chance alone;
it is printed beside it. The exit status is 1 if a default is below a tuned command by more than the standard error of
the difference.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

LITE, COMPACT = "mask_rcnn_lite0_fpn", "mask_rcnn_compact"
DEMO = ["train.batch_size=8", "train.reference_batch=8", "train.optimizer=adamw", "train.lr=0.002", "train.steps=1000"]
D2GO = [
    "input.min_size=640", "input.max_size=1000", "rpn.proposals.post_nms=200", "train.scales=[320,400,480]",
    "train.steps=120", "backbone.frozen_blocks=8",
]  # fmt: skip
# by start, then by the page or command that has the settings
TUNED = {
    "d2go": {"training.md": D2GO},
    LITE: {"tutorial.md": ["train.steps=200"], "results.md": ["train.steps=300"]},
    COMPACT: {"demo": DEMO, "README.md": ["train.epochs=20"]},
}
SETS = ("balloon", "fruits_nuts", "labelme24")
# what changes the time of a run, but no weight
QUIET = ["train.pictures=0", "train.diagnostics=false", "train.trackers=[]", "train.workers=0"]
RESULTS = "results.jsonl"


def finished(output: Path) -> dict[str, dict[str, Any]]:
    """The lines of the finished runs, by the name of the run."""
    file = output / RESULTS
    lines = file.read_text().splitlines() if file.exists() else []
    return {line["run"]: line for line in map(json.loads, lines)}


def train(words: list[str], run: Path) -> dict[str, Any]:
    """The result of `rcnn train` with `words`, in `run`; a run that was stopped is continued."""
    resume = ["--resume"] if (run / "last").exists() else []
    command = [sys.executable, "-m", "rcnn", "train", *words, "--output", str(run), *QUIET, *resume]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"RCNN_OFFLINE": "1"})
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    masks = {line["step"] + 1: line["segm_AP"] for line in lines if line.get("segm_AP") is not None}
    boxes = {line["step"] + 1: line["bbox_AP"] for line in lines if line.get("bbox_AP") is not None}
    for checkpoint in ("last", "best"):  # they are large
        shutil.rmtree(run / checkpoint, ignore_errors=True)
    return {
        "run": run.name,
        "settings": words[3:],
        "mask_ap": last_and_best(masks),
        "box_ap": last_and_best(boxes),
        "steps": lines[-1]["step"] + 1,
        "evaluations": masks,
    }


def last_and_best(evaluations: dict[int, float]) -> dict[str, float]:
    """The AP of the last and of the best evaluation; `evaluations`: step -> AP."""
    return {"last": evaluations[max(evaluations)], "best": max(evaluations.values())}


def shown(values: list[float]) -> str:
    """Mean and standard error."""
    return f"{statistics.mean(values):.3f} ± {standard_error(values):.3f}"


def standard_error(values: list[float]) -> float:
    """The standard error of the mean; NaN for one value."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def difference(default: list[float], tuned: list[float]) -> tuple[float, float]:
    """Mean of `default` minus mean of `tuned`, and its standard error; NaN if one of them has only one value."""
    error = math.hypot(standard_error(default), standard_error(tuned))
    return statistics.mean(default) - statistics.mean(tuned), error


def compare(data: str, model: str, results: dict[str, list[dict[str, Any]]]) -> bool:
    """Print the mask AP of each command, last and best evaluation, and how much higher that of the defaults is.

    Returns whether the default is below another command by more than the standard error of the difference.
    """
    values = {
        name: {which: [line["mask_ap"][which] for line in lines] for which in ("last", "best")}
        for name, lines in results.items()
    }
    worse = False
    for name, found in values.items():
        row = [data, model, name, str(len(found["last"])), shown(found["last"]), shown(found["best"])]
        if name != "default":
            gain, error = difference(values["default"]["last"], found["last"])
            worse |= gain < -error  # false for NaN: one seed decides nothing
            row.append(f"{gain:+.3f} ± {error:.3f}")
        print(f"| {' | '.join(row)} |", flush=True)
    return worse


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--d2go", default="", help="D2Go's Mask R-CNN, converted; left out without it")
    parser.add_argument("--output", type=Path, default=Path("runs/defaults"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", default="", help="a part of `SET MODEL`, e.g. 'balloon d2go'")
    parser.add_argument("--list", action="store_true", help="print the commands and run nothing")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    if not arguments.list:
        print("| data | start | command | runs | mask AP, last | mask AP, best | default - this, last |", flush=True)
    worse = False
    for data in SETS:
        for model, tuned in TUNED.items():
            if arguments.only not in f"{data} {model}" or (model == "d2go" and not arguments.d2go):
                continue
            results: dict[str, list[dict[str, Any]]] = {}
            for seed in range(arguments.seeds):
                for name, words in {"default": list[str](), **tuned}.items():
                    start = arguments.d2go if model == "d2go" else model
                    command = [start, "--data", str(arguments.data / data), *words, f"train.seed={seed}"]
                    if arguments.list:
                        print("rcnn train", *command)
                        continue
                    run = arguments.output / f"{data}-{model}-{name}-{seed}"
                    line = finished(arguments.output).get(run.name)
                    if line is None:
                        line = train(command, run)
                        with (arguments.output / RESULTS).open("a") as file:
                            file.write(json.dumps(line) + "\n")
                    results.setdefault(name, []).append(line)
            if results:
                worse |= compare(data, model, results)
    return int(worse)


if __name__ == "__main__":
    sys.exit(main())
