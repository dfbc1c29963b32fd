"""The figures of a benchmark: a table, JSON, and the comparison with earlier figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from rcnn.bench.clock import STAGES
from rcnn.bench.machine import SAME
from rcnn.bench.subjects import PEER
from rcnn.outputs import OutputFolder
from rcnn.text_files import read_json

MARGIN = 0.05  # relative changes below this are no regression, even if the noise is smaller
MEMORY_MARGIN = 0.05  # relative increases of memory below this are no regression
SMALL = 0.02  # changes of a stage below this fraction of the whole call are no regression


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The figures of one subject, in the order of the calls."""

    stages: list[dict[str, float]]  # seconds of each call with one image, by stage, and of the "whole"
    batches: dict[int, list[float]]  # batch size -> seconds of each call
    peak_mib: float | None = None

    def seconds(self, stage: str) -> list[float]:
        """Seconds of a stage in each call; 0 for a stage that the model does not have."""
        return [call.get(stage, 0.0) for call in self.stages]

    def throughput(self, size: int) -> float:
        """Median of the images per second, in batches of `size`."""
        return size / _median(self.batches[size])

    def to_dict(self) -> dict[str, Any]:
        """The figures for JSON, in seconds, with all samples, so that `from_dict` can restore them."""
        whole = self.seconds("whole")
        return {
            "p50_s": _median(whole),
            "p95_s": float(np.percentile(whole, 95)),
            "stages_s": {stage: _median(self.seconds(stage)) for stage in STAGES},
            "images_per_s": {str(size): self.throughput(size) for size in self.batches},
            "peak_mib": self.peak_mib,
            "samples": {"stages": self.stages, "batches": {str(size): one for size, one in self.batches.items()}},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The figures that `to_dict` wrote. ValueError, or another error of Python, for other values."""
        samples, peak = values["samples"], values["peak_mib"]
        stages = [{stage: float(one) for stage, one in call.items()} for call in samples["stages"]]
        batches = {int(size): [float(one) for one in seconds] for size, seconds in samples["batches"].items()}
        if not stages or not all(batches.values()):
            raise ValueError("expected one or more samples")
        return cls(stages=stages, batches=batches, peak_mib=None if peak is None else float(peak))


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The figures of a model on a machine."""

    model: str
    settings: tuple[str, ...]
    image: str
    machine: dict[str, str | int]
    rows: dict[str, Measured] = field(default_factory=dict)  # by subject: "rcnn float32", "torchvision float32"

    def __str__(self) -> str:
        """The table that `rcnn benchmark` prints."""
        rows, names = self.rows.values(), list(self.rows)
        lines = [
            f"{' '.join((self.model, *self.settings))}, image: {self.image}",
            ", ".join(f"{key} {value}" for key, value in self.machine.items()),
            "",
            _line("milliseconds, median", names),
        ]
        lines += [_line(f"  {stage}", [f"{1e3 * _median(row.seconds(stage)):.1f}" for row in rows]) for stage in STAGES]
        for name, percent in (("whole, p50", 50), ("whole, p95", 95)):
            lines.append(_line(name, [f"{1e3 * np.percentile(row.seconds('whole'), percent):.1f}" for row in rows]))
        for size in next(iter(rows)).batches:
            lines.append(_line(f"images/s, batch {size}", [f"{row.throughput(size):.2f}" for row in rows]))
        if any(row.peak_mib is not None for row in rows):
            peaks = ["-" if row.peak_mib is None else f"{row.peak_mib:,.0f}" for row in rows]
            lines.append(_line("peak memory, MiB", peaks))
        if PEER in self.rows:
            lines.append(_line("times as fast", [f"{ratio:.2f}" for ratio in self.faster.values()]))
        return "\n".join(lines)

    @property
    def faster(self) -> dict[str, float]:
        """The speed of each subject relative to torchvision, at batch size 1; empty without torchvision."""
        if PEER not in self.rows:
            return {}
        peer = _median(self.rows[PEER].seconds("whole"))
        return {name: peer / _median(row.seconds("whole")) for name, row in self.rows.items()}

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON that `rcnn benchmark --json` prints."""
        return {
            "model": self.model,
            "settings": list(self.settings),
            "image": self.image,
            "machine": self.machine,
            "faster": self.faster,
            "subjects": {name: row.to_dict() for name, row in self.rows.items()},
        }

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """The benchmark in a file that `write` wrote. Raises FileNotFoundError, or ValueError for another file."""
        values = read_json(Path(path), given=True)
        try:
            if not values["subjects"]:
                raise ValueError("expected one or more subjects")
            return cls(
                model=values["model"],
                settings=tuple(values["settings"]),
                image=values["image"],
                machine=dict(values["machine"].items()),
                rows={name: Measured.from_dict(row) for name, row in values["subjects"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} is not a benchmark; expected the JSON that `rcnn benchmark --json` prints"
            ) from error

    def write(self, path: str | Path) -> None:
        """Write the JSON to a file. Raises the errors of `output_of_benchmark`."""
        with output_of_benchmark(path) as folder:
            folder.write_json(Path(path).name, self.to_dict(), indent=2)

    def regressions(self, old: Benchmark) -> list[str]:
        """A line for each time that is longer than in `old` by more than the noise of both, and for more memory.

        The noise of a time is the distance between the 10th and the 90th percentile of its samples. Raises ValueError
        if the benchmarks cannot be compared, because the model, image, device or number of threads differs.
        """
        self.require_comparable(old)
        found: list[str] = []
        for name, row in self.rows.items():
            before = old.rows.get(name)
            if before is None or name == PEER:
                continue
            least = SMALL * _median(before.seconds("whole"))
            for stage in (*STAGES, "whole"):
                found += _slower(f"{name}, {stage}", before.seconds(stage), row.seconds(stage), least)
            for size in sorted(before.batches.keys() & row.batches.keys() - {1}):
                found += _slower(f"{name}, batch {size}", before.batches[size], row.batches[size], least)
            if before.peak_mib and row.peak_mib and row.peak_mib > before.peak_mib * (1 + MEMORY_MARGIN):
                found.append(f"{name}, peak memory: {before.peak_mib:,.0f} -> {row.peak_mib:,.0f} MiB")
        return found

    def require_comparable(self, old: Benchmark) -> None:
        """Raise ValueError if `regressions` cannot compare this benchmark with `old`."""
        values = [(one.model, one.settings, one.image, *(one.machine.get(key) for key in SAME)) for one in (self, old)]
        names = ("model", "settings", "image", *SAME)
        for name, ours, theirs in zip(names, *values, strict=True):
            if ours != theirs:
                raise ValueError(
                    f"the benchmarks cannot be compared: {name} is {ours!r} here and {theirs!r} in the earlier one; "
                    "expected the same model, settings, image and machine in both"
                )
        if not set(self.rows) & set(old.rows) - {PEER}:
            raise ValueError(
                f"the benchmarks cannot be compared: the earlier one has {', '.join(old.rows)}, this one "
                f"{', '.join(self.rows)}; expected the same precision in both (--precision)"
            )


def _slower(what: str, before: Sequence[float], after: Sequence[float], least: float) -> list[str]:
    """A line if the increase of the median exceeds the sum of both noises, MARGIN, and `least` seconds."""
    old, new = _median(before), _median(after)
    allowed = max(_noise(before) + _noise(after), MARGIN * old, least)
    if new - old <= allowed:
        return []
    return [f"{what}: {1e3 * old:.1f} -> {1e3 * new:.1f} ms (x {new / old:.2f}; noise {1e3 * allowed:.1f} ms)"]


def _noise(values: Sequence[float]) -> float:
    low, high = np.percentile(values, [10, 90])
    return float(high - low)


@contextmanager
def output_of_benchmark(path: str | Path) -> Iterator[OutputFolder]:
    """The folder of the file `path`, which is created if needed, to write a benchmark to it.

    Raises ValueError if the file exists and is not a benchmark, OSError if it is a link or cannot be written.
    """
    path = Path(path)
    with OutputFolder(path.parent) as folder:
        if path.is_file() and not path.is_symlink():
            Benchmark.read(path)
            folder.adopt(path.name)
        folder.require_free(path.name)
        yield folder


def _median(values: Sequence[float]) -> float:
    return float(np.median(values))


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:24}" + "".join(f"{cell:>22}" for cell in cells)
