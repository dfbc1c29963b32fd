"""`rcnn eval` and `rcnn predict FOLDER` beside the time of their model alone.

    python benchmarks/pipeline.py --checkpoint DIR --data DIR --split NAME

The start is the time of the same command for one image. The model's time is that of `Predictor.detect` on the images of
the split, which were read and resized before. The time after the last image is that of the metrics, the analysis and
the report of `rcnn eval`. Wall-clock and CPU seconds; the shortest of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measure import write
from rcnn import Predictor
from rcnn.data import Dataset
from rcnn.evaluation.opening import dataset_for
from rcnn.evaluation.plan import EvaluationOptions
from rcnn.evaluation.run import run_evaluation


def command(*words: object) -> dict[str, float]:
    """Wall-clock and CPU seconds of `rcnn WORDS` in a new process."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "rcnn", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"rcnn {' '.join(map(str, words))} failed:\n{done.stderr}")
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return {"seconds": time.perf_counter() - start, "cpu": cpu}


def model_alone(predictor: Predictor, paths: list[Path]) -> dict[str, float]:
    """The same of the model on images that were read and resized before."""
    prepared = [predictor.prepare(path) for path in paths]
    predictor.predict(paths[0])  # warms up
    start, cpu = time.perf_counter(), time.process_time()
    for image, frame in prepared:
        predictor.detect([image], [frame])
    return {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}


def after_the_last_image(predictor: Predictor, dataset: Dataset, limit: int, output: Path) -> dict[str, float]:
    """The same of what `rcnn eval` does after the last image: metrics, analysis, and the files in `output`."""
    ends: list[tuple[float, float]] = []
    options = EvaluationOptions(limit=limit)

    @contextmanager
    def progress(_: str, __: int) -> Iterator[Callable[[], None]]:
        yield lambda: ends.append((time.perf_counter(), time.process_time()))

    run_evaluation(predictor, dataset, output, options=options, title="", details={}, log=print, progress=progress)
    return {"seconds": time.perf_counter() - ends[-1][0], "cpu": time.process_time() - ends[-1][1]}


def shortest(runs: list[dict[str, float]]) -> dict[str, float]:
    """The run with the shortest time."""
    return min(runs, key=lambda run: run["seconds"])


def main() -> None:
    """Each command and the model in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", required=True)
    parser.add_argument("--limit", type=int, default=0, help="images, the first ones; 0: all")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    predictor = Predictor(options.checkpoint, device="cpu")
    dataset = dataset_for(predictor, options.data, options.split)
    paths = [dataset[index].path for index in range(options.limit or len(dataset))]
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.repeats):
            on_data = ("eval", options.checkpoint, "--data", options.data, "--split", options.split)
            calls: dict[str, tuple[object, ...]] = {
                "eval, one image": (*on_data, "--limit", 1, "--pictures", 0),
                "eval": (*on_data, "--limit", len(paths)),
                "predict, one image": ("predict", options.checkpoint, paths[0]),
                "predict": ("predict", options.checkpoint, *paths),
            }
            for name, words in calls.items():
                output = Path(folder) / f"{name.replace(', ', '_').replace(' ', '_')}{turn}"
                runs.setdefault(name, []).append(command(*words, "--output", output))
            runs.setdefault("model", []).append(model_alone(predictor, paths))
            after = after_the_last_image(predictor, dataset, len(paths), Path(folder) / f"after{turn}")
            runs.setdefault("eval, after the last image", []).append(after)
    best = {name: shortest(found) for name, found in runs.items()}
    model = best["model"]["seconds"]
    values: dict[str, Any] = {"images": len(paths), **best}
    for name in ("eval", "predict"):
        beyond = best[name]["seconds"] - best[f"{name}, one image"]["seconds"]
        values[f"{name}: beyond the start, times the model's time"] = beyond / model
    print(json.dumps(values, indent=2))
    text = "python benchmarks/pipeline.py " + " ".join(sys.argv[1:])
    print(f"wrote {write('pipeline', text, values)}", file=sys.stderr)


if __name__ == "__main__":
    main()
