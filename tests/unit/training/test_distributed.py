"""N processes take the steps of one with all images, whatever the norm, the objects, and who holds the weights."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rcnn.data.loading import TrainingBatch
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.config import ViTConfig
from rcnn.models.layers import FrozenBatchNorm2d, SyncBatchNorm2d
from rcnn.models.overrides import override
from rcnn.runtime.processes import ALONE, LostProcessError, Processes, joined
from rcnn.structures import ImageBatch
from rcnn.training import engine
from rcnn.training.distributed import batch_norm_warnings, synchronize_norms
from rcnn.training.finite import DivergedError, replay
from rcnn.training.log import RunLog, SilentLog
from rcnn.training.run_folder import RunFolder
from rcnn.training.settings import TrainConfig
from rcnn.training.sharding import whole_state
from rcnn.training.state import TrainState, read_state
from rcnn.training.validation import Metrics
from rcnn.weights.checkpoint import load_checkpoint
from tests.tiny_data import TINY_MODEL
from tests.unit.random_batches import random_images, random_targets
from tests.unit.training.process_runs import in_processes, started

SIZES = {
    torch.float64: [(32, 64), (30, 64), (32, 40), (32, 64)],
    # without padding, where scores are equal except for rounding, which in float32 would decide what is sampled
    torch.float32: [(32, 64)] * 4,
}
COUNTS = [0, 0, 2, 500]  # objects: none on the first of two processes
SETTINGS = TrainConfig(
    steps=5, batch_size=4, reference_batch=4, lr=0.005, warmup_steps=3, ema=0.9, clip_norm=5, log_every=1
)
STEPS = {"frozen": 12}  # of the kinds that take more steps than the others
KINDS = {  # of norms; and weights that are divided among the processes
    "synchronized": ("mask.norm=bn",),
    "group": ("mask.width=32", "mask.norm=gn", "box.convs=1", "box.conv_width=32", "box.norm=gn"),
    "frozen": (),
    "accumulated": (),
    "sharded": ("fpn=null", "mask.norm=bn"),
}
VIT = ViTConfig(name="test_vit", window=3, global_blocks=2, image_size=96, channels=16, drop_path=0.0)


def detector_of(kind: str, dtype: torch.dtype, drop_path: float = 0.0) -> Detector:
    torch.manual_seed(0)
    config = override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2", *KINDS[kind]])
    vit = replace(config, backbone=replace(VIT, drop_path=drop_path))
    detector = build_detector(vit if kind == "sharded" else config)
    for module in detector.modules() if kind in ("frozen", "group", "accumulated") else ():
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, FrozenBatchNorm2d(child.num_features))
    return detector.to(dtype)


class Gated(nn.BatchNorm2d):
    """A norm of the user, with a computation of its own."""


def test_norms_of_the_user_stay_and_are_reported() -> None:
    fixed = nn.BatchNorm3d(3).eval()
    norms = nn.ModuleList([nn.BatchNorm2d(3), Gated(3), nn.BatchNorm1d(3), nn.SyncBatchNorm(3), fixed])
    synchronize_norms(norms)
    assert [type(norm) for norm in norms][:2] == [SyncBatchNorm2d, Gated]
    [line] = batch_norm_warnings(norms, TrainConfig(), Processes(count=2))
    assert line.startswith("BatchNorm1d, Gated: train.sync_bn=true does not apply to this batch norm")
    assert not list(batch_norm_warnings(norms, TrainConfig(), ALONE))


def stream(
    first: int, dtype: torch.dtype, rank: int = 0, world: int = 1, parts: int = 1
) -> Generator[TrainingBatch, None, None]:
    """This process's part of batches of four images, in `parts`; another one of them has many objects in each."""
    for number in count(first):
        images = random_images(SIZES[dtype], seed=number // parts)
        targets = random_targets(SIZES[dtype], COUNTS, 2, seed=number // parts)
        place = number % parts * world + rank
        own = slice(place * 4 // (world * parts), (place + 1) * 4 // (world * parts))
        yield TrainingBatch(
            images=ImageBatch(pixels=images.pixels[own], sizes=images.sizes[own]),
            targets=targets._map(lambda value: value[own]),  # noqa: B023
            image_ids=tuple(range(4))[own],
            first=own.start,
        )


def trained(
    kind: str, dtype: torch.dtype, processes: Processes, folder: Path, drop_path: float = 0.0, **changes: Any
) -> dict[str, Tensor]:
    """The whole weights, and their EMA, after training; from last/ in `folder` on, if there is one."""
    parts = 2 if kind == "accumulated" else 1
    changes = {"steps": STEPS.get(kind, SETTINGS.steps), **changes}
    settings = replace(
        SETTINGS, batch_size=4 // (processes.count * parts), accumulate=parts, shard=kind == "sharded", **changes
    )
    state = TrainState.start(detector_of(kind, dtype, drop_path), settings, processes)
    torch.manual_seed(processes.rank)
    batches = partial(stream, dtype=dtype, rank=processes.rank, world=processes.count, parts=parts)
    with RunFolder(folder, classes=("a", "b"), provenance={}, writes=processes.is_first) as run:
        if (folder / "last").exists():
            run.load_last(state)
        with RunLog(folder / "log.jsonl", steps=settings.steps) if processes.is_first else SilentLog() as log:
            engine.train(state, batches, settings, run, log)
    assert state.ema is not None
    average = {f"ema.{name}": value for name, value in state.ema.detector.state_dict().items()}
    return whole_state(state.detector.state_dict() | average)


def cases(
    processes: Processes, folder: Path, kinds: Sequence[str] = tuple(KINDS), **changes: Any
) -> dict[str, dict[str, Tensor]]:
    """The weights after training with each kind in float64 and in float32."""
    pairs = [(kind, dtype) for kind in kinds for dtype in (torch.float64, torch.float32)]
    return {
        f"{kind} {dtype}": trained(kind, dtype, processes, folder / f"{kind} {dtype}", **changes)
        for kind, dtype in pairs
    }


def resumed(processes: Processes, folder: Path) -> dict[str, Tensor]:
    """The weights after two more steps, with weights that are divided."""
    return trained("sharded", torch.float64, processes, folder, steps=SETTINGS.steps + 2, milestones=())


def in_two(processes: Processes, folder: Path, run_of_one: Path) -> dict[str, Any]:
    """All that two processes do in these tests, so that they are started once."""
    found: dict[str, Any] = cases(processes, folder) | {"resumed": resumed(processes, run_of_one)}
    found |= {"messages": not_finite(processes, folder), "stopped": stopped(processes, folder)}
    return found | interrupted(processes, folder)


def interrupted(processes: Processes, folder: Path) -> dict[str, Any]:
    """The weights after four steps that draw from the random generators of each process: at once, and in two runs."""
    run = partial(trained, "sharded", torch.float32, processes, drop_path=0.5, milestones=())
    whole = run(folder / "whole", steps=4)
    processes.wait()
    run(folder / "interrupted", steps=2)
    processes.wait()
    torch.randn(7)
    return {"whole": whole, "interrupted": run(folder / "interrupted", steps=4)}


def not_finite(processes: Processes, folder: Path) -> list[str]:
    """The messages of runs in which only the second process has a value that is not finite: an image; a gradient."""
    messages: list[str] = []
    for kind in ("synchronized", "frozen"):
        state = TrainState.start(detector_of(kind, torch.float32), replace(SETTINGS, batch_size=2), processes)
        if processes.rank == 1 and kind == "frozen":
            state.detector.backbone.register_forward_hook(infinite_gradient)
        batches = partial(spoilt if kind == "synchronized" else stream, dtype=torch.float32)
        with RunFolder(folder / kind, classes=("a", "b"), provenance={}, writes=processes.is_first) as run:
            try:
                settings = replace(SETTINGS, batch_size=2, diagnostics=False)
                engine.train(state, partial(batches, rank=processes.rank, world=2), settings, run, SilentLog())
            except DivergedError as error:
                messages.append(str(error))
    return messages


def stopped(processes: Processes, folder: Path) -> list[tuple[int, int | None, bool]]:
    """The ends of runs of which only the second process gets a signal: while it waits for data, or evaluates."""
    ends = list[tuple[int, int | None, bool]]()
    settings = replace(SETTINGS, batch_size=2, evaluate_every=1, diagnostics=False)
    for where in ("data", "evaluation"):
        state = TrainState.start(detector_of("frozen", torch.float32), settings, processes)

        def signalled(image: int, where: str = where) -> int:
            if processes.rank == 1 and where == "evaluation":
                os.kill(os.getpid(), signal.SIGTERM)
            return image

        def evaluate(detector: Detector, state: TrainState = state, act: Callable[[int], int] = signalled) -> Metrics:
            own = map(act, state.processes.own_places(4, 1))
            return {"bbox": {"AP": float(len(list(state.processes.in_order(own, 4, 1))))}}

        def batches(first: int, where: str = where) -> Generator[TrainingBatch, None, None]:
            for number, batch in enumerate(stream(first, torch.float32, processes.rank, 2)):
                if processes.rank == 1 and number == 1 and where == "data":
                    os.kill(os.getpid(), signal.SIGTERM)
                yield batch

        with RunFolder(folder / where, classes=("a", "b"), provenance={}, writes=processes.is_first) as run:
            outcome = engine.train(state, batches, settings, run, SilentLog(), evaluate=evaluate)
        ends.append((outcome.step, outcome.signal, state.evaluation_due))
    return ends


def infinite_gradient(module: nn.Module, inputs: object, output: dict[str, Tensor]) -> None:
    for value in output.values():
        value.register_hook(partial(torch.mul, float("inf")))


def spoilt(first: int, dtype: torch.dtype, rank: int, world: int) -> Generator[TrainingBatch, None, None]:
    """The stream, with NaN in the images of the second process from the second step on."""
    for number, batch in enumerate(stream(first, dtype, rank, world), start=first):
        if rank == 1 and number > 0:
            pixels = torch.full_like(batch.images.pixels, float("nan"), dtype=dtype)
            batch = replace(batch, images=replace(batch.images, pixels=pixels))
        yield batch


def test_two_processes_equal_one_with_all_images(tmp_path: Path) -> None:
    """In the steps that they take; in the checkpoints that they write; and when they continue each other's run."""
    one, two = tmp_path / "one", tmp_path / "two"
    expected = cases(ALONE, one)
    last = "sharded torch.float64"
    shutil.copytree(one / last, tmp_path / "continued")
    first, second = in_processes(2, two, partial(in_two, folder=two, run_of_one=tmp_path / "continued"))
    assert_same_checkpoint(one / last / "last", two / last / "last")
    expected["resumed"] = resumed(ALONE, two / last)
    assert_same_weights(first, second, expected)
    for found in (first, second):  # with the same number of processes, a run that is resumed is the same bit for bit
        assert all(torch.equal(found["interrupted"][name], value) for name, value in found["whole"].items())
    assert_named(first["messages"], second["messages"], two)
    assert first["stopped"] == second["stopped"] == [(1, signal.SIGTERM, False), (1, signal.SIGTERM, True)]
    assert [read_state(two / where / "last")["step"] for where in ("data", "evaluation")] == [1, 1]


@pytest.mark.exhaustive
def test_twelve_steps_with_group_norm_and_synchronized_batch_norm(tmp_path: Path) -> None:
    """The test above takes five steps with these."""
    run = partial(cases, kinds=("group", "synchronized"), steps=12)
    first, second = in_processes(2, tmp_path, partial(run, folder=tmp_path / "two"))
    assert_same_weights(first, second, run(ALONE, tmp_path / "one"))


def assert_same_weights(first: dict[str, Any], second: dict[str, Any], expected: dict[str, dict[str, Tensor]]) -> None:
    """Those of both processes are equal, and nearly equal to `expected`, those of one process."""
    for case, weights in expected.items():
        furthest = 0.0
        for name, value in weights.items():
            assert torch.equal(first[case][name], second[case][name]), (case, name)
            furthest = max(furthest, float((first[case][name] - value).abs().max()))
        assert furthest < (1e-4 if "float32" in case else 1e-9), (case, furthest)


def assert_named(messages: list[str], others: list[str], folder: Path) -> None:
    """The messages of both processes name what was not finite in the second one, which had images 2 and 3."""
    assert messages == others
    image, gradient = messages
    assert re.match(r"step 1: .*the pixels of the images are not finite, on images 2, 3\. `rcnn train --replay", image)
    assert re.match(r"step 0: the gradient of backbone\.\S+ is not finite, on images 2, 3\. ", gradient)
    lines = list(replay(folder / "synchronized" / "nonfinite.pt", torch.device("cpu")))
    assert lines[0] == "step 1 with the images 2, 3"
    assert "rpn_objectness nan" in lines


def save_without_the_other(folder: Path, rank: int) -> None:
    """The first process saves; the other one is there but does nothing, as if it had stalled."""
    lost = folder / "lost"
    with contextlib.suppress(LostProcessError), joined(torch.device("cpu"), timeout=1) as processes:
        state = TrainState.start(detector_of("frozen", torch.float32), SETTINGS, processes)
        end = time.monotonic() + 120
        while rank == 1 and not lost.exists() and time.monotonic() < end:
            time.sleep(0.05)
        if rank == 0:
            state.contents()
        os._exit(rank != 1)
    lost.touch()


def test_a_process_does_not_wait_for_a_stalled_one_to_save(tmp_path: Path) -> None:
    """The run would hang, although train.watchdog has named the process that stalls."""
    started(2, tmp_path, partial(save_without_the_other, tmp_path))
    assert (tmp_path / "lost").exists()


def assert_same_checkpoint(one: Path, other: Path) -> None:
    """The same tensors by name, shape and type, apart from the random generators of each process."""
    first, second = load_checkpoint(one), load_checkpoint(other)
    assert first.config == second.config
    states = [read_state(folder) for folder in (one, other)]
    assert [len(state.pop("other_random", [])) for state in states] == [0, 1]
    for state in states:
        del state["random"]
    torch.testing.assert_close((first.state, states[0]), (second.state, states[1]), rtol=0, atol=1e-9)
