"""The public function `rcnn.benchmark`: measures a model on this machine, compared with torchvision."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch

from rcnn.arguments import (
    CHECKPOINT,
    MOST_IMAGES,
    as_text,
    as_texts,
    is_whole_number,
    require_switches,
    shown,
    whole_number,
)
from rcnn.bench.clock import Clock, synchronize
from rcnn.bench.machine import machine
from rcnn.bench.memory import peak_memory_of
from rcnn.bench.report import Benchmark, Measured
from rcnn.bench.subjects import Request, Subject, photo, subject_names
from rcnn.models.overrides import Overrides, as_overrides
from rcnn.progress import Progress, no_progress
from rcnn.runtime.devices import Device, Precision, choose_device, choose_precision

WARM_UP = 2  # calls that are not measured: the first ones load libraries and choose kernels
LEAST = 2  # repeats of a large batch


def benchmark(
    model: str | Path = "mask_rcnn_r50_fpn",
    *,
    overrides: Overrides = (),
    image: str | Path | None = None,
    precisions: Precision | Sequence[Precision] = (),
    batch_sizes: Sequence[int] = (1, 8),
    repeats: int = 5,
    peer: bool = True,
    memory: bool = True,
    device: Device = "auto",
    allow: str | Sequence[str] = (),
    earlier: Benchmark | None = None,
    progress: Progress | None = None,
) -> Benchmark:
    """Seconds of each stage, throughput, latency and peak memory of a model on this machine.

    `model`: the name of a model (random weights), or a checkpoint. The score threshold is 0, so that all heads process
    the maximum number of detections. `image`: a photo; default: a generated image of 480 x 640 pixels. `precisions`
    default to float32, and bfloat16 if the hardware has it. `peer`: also measure torchvision's detector of the same
    architecture, alternately with ours. `repeats`: calls with one image, after two warm-up calls; larger batches have
    fewer calls, at least two. `memory`: also measure peak memory, in a new process for each precision. `earlier`: an
    earlier benchmark to compare with; it is checked before anything is measured.

    Raises ValueError or FileNotFoundError for a model, image or setting that cannot be used.
    """
    repeats = whole_number("repeats", repeats, f"{LEAST} or more (--repeats), to estimate the noise", LEAST)
    sizes = tuple(batch_sizes) if isinstance(batch_sizes, Iterable) else (batch_sizes,)
    if not sizes or not all(is_whole_number(one) and 1 <= one <= MOST_IMAGES for one in sizes):
        raise ValueError(f"batch_sizes={shown(batch_sizes, 60)} (--batch); expected numbers of 1 to {MOST_IMAGES:,}")
    sizes = tuple(int(one) for one in sizes)  # of numpy's numbers, which JSON does not have
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"batch_sizes={list(sizes)} (--batch); expected different numbers")
    require_switches(peer=peer, memory=memory)
    chosen = choose_device(device)
    wanted = cast("tuple[Precision, ...]", as_texts(precisions, "precisions")) or ("float32", "auto")
    names = list(dict.fromkeys(choose_precision(one, chosen) for one in wanted))
    request = Request(
        model=as_text(model, "the model", f"the name of a model, or {CHECKPOINT}", empty=False),
        overrides=as_overrides(overrides),
        device=str(chosen),
        allow=as_texts(allow, "allow"),
    )
    config, file = request.config(), photo(image)
    columns = subject_names(config, names, peer=peer)
    plan = Benchmark(
        model=config.name,
        # a checkpoint may have another number of classes than the model of its name
        settings=request.overrides if request.is_name else (f"num_classes={config.num_classes}", *request.overrides),
        image="generated" if image is None else f"{Path(image).name} (sha256 {hashlib.sha256(file).hexdigest()[:12]})",
        machine=machine(chosen),
        rows={name: Measured(stages=[], batches={}) for name in columns},
    )
    if earlier is not None:
        plan.require_comparable(earlier)
    subjects = {name: request.subject(name) for name in columns}
    rounds = {size: max(LEAST, math.ceil(repeats / size)) for size in sorted({1, *sizes})}
    with (progress or no_progress)(
        "benchmark", len(subjects) * sum(count + WARM_UP for count in rounds.values())
    ) as advance:
        measured = {size: alternate(subjects, [file] * size, chosen, count, advance) for size, count in rounds.items()}
    return replace(
        plan,
        rows={
            name: Measured(
                stages=measured[1][name],
                batches={size: [total(one) for one in measured[size][name]] for size in rounds},
                peak_mib=peak_memory_of(request, name, file) if memory else None,
            )
            for name in subjects
        },
    )


def alternate(
    subjects: Mapping[str, Subject],
    files: list[bytes],
    device: torch.device,
    repeats: int,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, list[dict[str, float]]]:
    """Seconds by stage of `repeats` calls of each subject, alternately, so that other load affects all of them."""
    calls: dict[str, list[dict[str, float]]] = {name: [] for name in subjects}
    for turn in range(WARM_UP + repeats):
        for name, subject in subjects.items():
            clock = Clock(device)
            synchronize(device)
            with clock("whole"):
                subject(files, clock)
            if turn >= WARM_UP:
                calls[name].append(clock.seconds)
            advance()
    return calls


def total(seconds: Mapping[str, float]) -> float:
    """Seconds of a complete call."""
    return seconds["whole"]
