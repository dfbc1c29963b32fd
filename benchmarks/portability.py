"""The parity and compile tests under several instruction sets and two versions of torch: writes docs/portability.md.

    python benchmarks/portability.py --oldest OTHER_ENVIRONMENT/bin/python

Every run records the deviation of each comparison (tests/deviations.py). The table has the largest over all runs beside
its tolerance. The command fails where a test fails.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "portability.md"
VERSIONS = "import torch, torchvision; print(f'torch {torch.__version__}, torchvision {torchvision.__version__}')"

INTRODUCTION = """\
# The same numbers on every CPU

`make test-portable` runs the parity and compile tests six times. Each run uses other vector instructions, which change
the order in which a CPU adds numbers. `ONEDNN_MAX_CPU_ISA` limits oneDNN to SSE41, AVX2 or AVX512_CORE;
`ATEN_CPU_CAPABILITY=default` limits ATen. `benchmarks/portability.py` writes this page.

Newest: {newest}. Oldest supported: {oldest}. Runs in this table: {runs}.

A tolerance `a + r x` allows a deviation of a + r * |expected| for each element. `r of the norm` allows that the norm
(L2, over all elements) of the deviation is r times the norm of the expected tensor; the deviation in the table is their
ratio. *Used* is the largest share of the tolerance that was used in any run, and *run* names that run. Of {checks}
checks, {tight} used more than a third.

*fixed*: computed in float64, or element by element in one order, so that every CPU gives the same value. The deviation
is then the float32 rounding of the stored reference. It cannot grow on another CPU, so these checks are not counted,
unless the share that they used differs between the runs.

| test | check | tolerance | largest deviation | used | run | |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Run:
    """One run of the tests: the limits set on the CPU's instructions, and whether it takes the oldest torch."""

    name: str
    limits: dict[str, str] = field(default_factory=dict)
    oldest: bool = False


RUNS = [
    Run("default"),
    Run("AVX512_CORE", {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}),
    Run("AVX2", {"ONEDNN_MAX_CPU_ISA": "AVX2"}),
    Run("SSE41", {"ONEDNN_MAX_CPU_ISA": "SSE41"}),
    Run("ATen default", {"ATEN_CPU_CAPABILITY": "default"}),
    Run("oldest torch", oldest=True),
]


@dataclass
class Check:
    """The comparisons that share a test function and a name, over all cases of the test and all runs."""

    tolerances: set[str] = field(default_factory=set)
    deviation: float = 0.0
    used: dict[str, float] = field(default_factory=dict)  # largest share of the tolerance in each run
    fixed: bool = True  # whether the computed value is the same on every CPU

    @property
    def tight(self) -> bool:
        """Whether it used more than a third of its tolerance, and can use more on another CPU."""
        most, least = max(self.used.values()), min(self.used.values())
        return most > 1 / 3 and not (self.fixed and most - least < 0.01)


def main() -> int:
    """Run the tests, then write the page from all records in `--folder`; returns pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oldest", type=Path, required=True, help="Python with the oldest supported torch")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "portability", help="the records of the runs")
    parser.add_argument("--only", choices=[*(run.name for run in RUNS), "page"], help="one run, or the page alone")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    failed = 0
    for run in RUNS:
        if options.only in (None, run.name):
            failed |= run_tests(run, str(options.oldest) if run.oldest else sys.executable, options.folder)
    records = {run.name: record_file(options.folder, run) for run in RUNS if record_file(options.folder, run).exists()}
    if options.only in (None, "page"):
        PAGE.write_text(
            page(collect(records), list(records), versions(sys.executable), versions(str(options.oldest))), "utf-8"
        )
    return failed


def record_file(folder: Path, run: Run) -> Path:
    """Where the comparisons of a run are recorded."""
    return folder / f"{run.name.replace(' ', '_')}.jsonl"


def run_tests(run: Run, python: str, folder: Path) -> int:
    """Run the tests once; a record of an earlier run is replaced. Returns pytest's exit code."""
    file = record_file(folder, run)
    file.unlink(missing_ok=True)
    environment = os.environ | run.limits | {"RCNN_DEVIATIONS": str(file), "PYTHONPATH": str(ROOT / "src")}
    command = [python, "-m", "pytest", "-m", "parity or compile", "-p", "no:cacheprovider"]
    print(f"{run.name}: {versions(python)}", flush=True)
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def versions(python: str) -> str:
    """The versions of torch and torchvision of an environment."""
    return subprocess.run([python, "-c", VERSIONS], capture_output=True, text=True, check=True).stdout.strip()


def collect(records: dict[str, Path]) -> dict[tuple[str, str], Check]:
    """All comparisons of all runs, by test function ("test_golden_rpn::test_proposals") and name of the check."""
    checks: dict[tuple[str, str], Check] = defaultdict(Check)
    for run, file in records.items():
        for line in file.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            test = re.sub(r"^.*/(\w+)\.py::(\w+).*$", r"\1::\2", found["test"])
            check = checks[test, found["check"]]
            check.tolerances.add(found["tolerance"])
            check.deviation = max(check.deviation, found["deviation"])
            check.used[run] = max(check.used.get(run, 0.0), found["used"])
            check.fixed &= found["fixed"]
    return dict(sorted(checks.items()))


def page(checks: dict[tuple[str, str], Check], runs: list[str], newest: str, oldest: str) -> str:
    """docs/portability.md."""
    tight = sum(check.tight for check in checks.values())
    rows = [
        f"| {test} | {name} | {'; '.join(sorted(check.tolerances)[:2])} | {check.deviation:.1e} | "
        f"{max(check.used.values()):.0%} | {max(check.used, key=lambda run: check.used[run])} | "
        f"{'fixed' if check.fixed else ''} |"
        for (test, name), check in checks.items()
    ]
    return (
        INTRODUCTION.format(newest=newest, oldest=oldest, runs=", ".join(runs), checks=len(checks), tight=tight)
        + "\n".join(rows)
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
