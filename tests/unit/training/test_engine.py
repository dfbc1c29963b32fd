"""The loop: steps against plain PyTorch, accumulation against a larger batch, precision, divergence, stopping."""

from __future__ import annotations

import copy
import json
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rcnn.data.loading import TrainingBatch
from rcnn.models import Detector, build_detector, model_config
from rcnn.models.overrides import override
from rcnn.structures import ImageBatch, Targets
from rcnn.training.finite import DivergedError, replay, trace_nonfinite
from rcnn.training.log import read_log
from rcnn.training.settings import TrainConfig
from rcnn.training.signals import stop_requests
from rcnn.training.state import build_optimizer
from rcnn.training.validation import choose, chosen_metric, flatten, main_metrics
from rcnn.weights.checkpoint import load_checkpoint
from tests.tiny_data import TINY_MODEL
from tests.unit.random_batches import random_images, random_targets
from tests.unit.training.runs import CLASSES, train

SETTINGS = TrainConfig(steps=3, batch_size=2, lr=0.1, warmup_steps=0, milestones=(), momentum=0.5, log_every=1)


def tiny(*words: str) -> Detector:
    """A detector of two classes, the same each time."""
    torch.manual_seed(0)
    return build_detector(override(model_config("mask_rcnn_compact"), [*TINY_MODEL, "num_classes=2", *words]))


def batch_of(images: ImageBatch, targets: Targets, ids: tuple[int, ...]) -> TrainingBatch:
    """A batch as the loader makes it."""
    return TrainingBatch(images=images, targets=targets, image_ids=ids)


def two_images(seed: int) -> tuple[ImageBatch, Targets]:
    """Two images of one size with three objects each."""
    sizes = [(64, 96), (64, 96)]
    return random_images(sizes, seed=seed), random_targets(sizes, [3, 3], 2, capacity=3, seed=seed)


def stream(first: int) -> Iterator[TrainingBatch]:
    """An endless stream from batch `first`."""
    while True:
        yield batch_of(*two_images(first), (2 * first, 2 * first + 1))
        first += 1


def total(losses: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of the losses."""
    return torch.stack(list(losses.values())).sum()


def test_steps_are_those_of_a_loop_in_plain_pytorch(tmp_path: Path) -> None:
    ours, theirs = tiny(), tiny()
    outcome = train(ours, stream, SETTINGS, tmp_path)
    assert outcome.finished
    assert outcome.step == 3
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1 * 2 / 16, momentum=0.5)
    theirs.train()
    losses = []
    for step in range(3):
        images, targets = two_images(step)
        parts = theirs.losses(images, targets, torch.tensor(step))
        optimizer.zero_grad()
        total(parts).backward()
        for name, parameter in theirs.named_parameters():
            if ".norm." not in name and parameter.grad is not None:
                parameter.grad += 1e-4 * parameter.detach()  # weight decay, not of norms
        optimizer.step()
        losses.append(total(parts).item())
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value, atol=1e-5, rtol=1e-4, msg=name)
    logged = read_log(tmp_path / "log.jsonl")
    assert [line["loss"] for line in logged] == pytest.approx(losses, rel=1e-4)
    assert all(line["lr"] == pytest.approx(0.0125) for line in logged)
    parts = ("rpn_objectness", "rpn_box", "box_class", "box_delta", "mask")
    assert all(line["loss"] == pytest.approx(sum(line[name] for name in parts)) for line in logged)
    torch.testing.assert_close(load_checkpoint(tmp_path / "last").state, dict(ours.state_dict()))


def test_accumulated_batches_give_the_gradient_of_one_larger_batch(tmp_path: Path) -> None:
    """Where the losses have the same divisor: exhaustive sampling, equal numbers of regions per image, no norms."""
    words = [
        "mask=null",
        "backbone.norm=none",
        "fpn.norm=none",
        "rpn.sampling.batch_size=20000",
        "box.sampling.batch_size=64",
    ]
    words += ["rpn.proposals.post_nms_train=10", "rpn.proposals.nms_iou=0.95"]
    images, targets = two_images(0)

    def one(index: slice) -> TrainingBatch:
        rows = {name: value[index] for name, value in vars(targets).items() if value is not None}
        pixels = ImageBatch(pixels=images.pixels[index], sizes=images.sizes[index])
        return batch_of(pixels, Targets(**rows), (0,))

    def apart(first: int) -> Iterator[TrainingBatch]:
        yield from [one(slice(0, 1)), one(slice(1, 2))]

    def together(first: int) -> Iterator[TrainingBatch]:
        yield one(slice(0, 2))

    settings = replace(SETTINGS, steps=1, lr=1.0, reference_batch=2, momentum=0.0, weight_decay=0.0)
    before, small, large = (tiny(*words) for _ in range(3))
    train(small, apart, replace(settings, batch_size=1, accumulate=2), tmp_path / "small")
    train(large, together, settings, tmp_path / "large")
    moved = 0.0
    for name, value in large.state_dict().items():
        torch.testing.assert_close(small.state_dict()[name], value, atol=1e-6, rtol=1e-5, msg=name)
        moved = max(moved, float((value - before.state_dict()[name]).abs().max()))
    assert moved > 1e-2
    logged = [read_log(tmp_path / name / "log.jsonl")[0] for name in ("small", "large")]
    assert logged[0]["loss"] == pytest.approx(logged[1]["loss"], rel=1e-5)
    assert logged[0]["lr"] == logged[1]["lr"] == 1.0


def test_bfloat16_changes_the_features_and_leaves_losses_and_weights_float32(tmp_path: Path) -> None:
    images, targets = two_images(0)
    detector = tiny().train()
    exact = detector.losses(images, targets, torch.tensor(0))
    with torch.autocast("cpu", torch.bfloat16):
        rough = detector.losses(images, targets, torch.tensor(0))
        assert all(value.dtype == torch.bfloat16 for value in detector.features(images).values())
    assert {name: value.dtype for name, value in rough.items()} == dict.fromkeys(exact, torch.float32)
    assert total(rough).item() == pytest.approx(total(exact).item(), rel=0.05)
    assert any(not torch.equal(rough[name], exact[name]) for name in exact)
    train(detector, stream, replace(SETTINGS, bf16=True), tmp_path)
    assert {p.dtype for p in detector.parameters()} == {torch.float32}


def test_a_nan_loss_stops_before_the_weights_change(tmp_path: Path) -> None:
    detector = tiny()

    def spoilt(first: int) -> Iterator[TrainingBatch]:
        for number, batch in enumerate(stream(first), start=first):
            if number == 2:
                pixels = torch.full_like(batch.images.pixels, float("nan"), dtype=torch.float32)
                batch = batch_of(replace(batch.images, pixels=pixels), batch.targets, (71, 72, 71))
            yield batch

    with pytest.raises(DivergedError, match=r"step 2: .*nan.* images 71, 72\..*train\.lr.*=skip$") as error:
        train(detector, spoilt, replace(SETTINGS, steps=5, checkpoint_every=1), tmp_path)
    assert isinstance(error.value, ValueError)  # so that the command prints it on one line
    assert all(value.isfinite().all() for name, value in detector.named_parameters())
    last = load_checkpoint(tmp_path / "last")
    assert all(torch.equal(value, last.state[name]) for name, value in detector.named_parameters())
    assert all(value.isfinite().all() for value in detector.buffers())  # also the statistics of batch norm
    assert "the pixels of the images are not finite" in str(error.value)
    lines = list(replay(tmp_path / "nonfinite.pt", torch.device("cpu")))
    assert lines[0] == "step 2 with the images 71, 72, 71"
    assert "rpn_objectness nan" in lines
    with pytest.raises(ValueError, match=r"log\.jsonl is not a batch that a run wrote") as refused:
        list(replay(tmp_path / "log.jsonl", torch.device("cpu")))
    assert "weights_only" not in str(refused.value)
    with pytest.raises(ValueError, match=r"is a folder; expected the file of a batch, e.g. .*nonfinite\.pt"):
        list(replay(tmp_path, torch.device("cpu")))


def test_the_first_layer_that_is_not_finite_is_named_and_the_step_can_be_skipped(tmp_path: Path) -> None:
    detector, lines = tiny(), list[str]()
    calls = iter(range(100))

    def spoil(module: torch.nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
        return output * float("inf") if next(calls) in (1, 2) else output  # step 1, and its second look

    detector.backbone.get_submodule("res3").register_forward_hook(spoil)
    settings = replace(SETTINGS, steps=3, nonfinite="skip", clip_norm=5.0, diagnostics=False)
    outcome = train(detector, stream, settings, tmp_path, printed=lines)
    assert outcome.finished
    [warning] = [line for line in lines if "skipped" in line]
    assert "step 1: " in warning
    assert "the output of backbone.res3 (Sequential)" in warning
    assert "on images 2, 3." in warning
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [0, 2]
    assert all(value.isfinite().all() for value in detector.state_dict().values())


@pytest.mark.parametrize(("wrong", "limit", "ends"), [("11011", 3, 0), ("1101110", 3, 6), ("11", 20, 2), ("101", 2, 0)])
def test_a_run_that_only_skips_steps_ends_with_an_error(tmp_path: Path, wrong: str, limit: int, ends: int) -> None:
    """`wrong`: the steps that are not finite; `ends`: the step that ends the run, from 1."""

    def spoilt(first: int) -> Iterator[TrainingBatch]:
        for number, batch in enumerate(stream(first), start=first):
            pixels = batch.images.pixels.float() * (float("nan") if wrong[number] == "1" else 1)
            yield batch_of(replace(batch.images, pixels=pixels), batch.targets, (1, 2))

    settings = replace(SETTINGS, steps=len(wrong), nonfinite="skip", nonfinite_limit=limit, diagnostics=False)
    said = rf"step {ends - 1}: .*last of {min(limit, ends)} steps in a row .*\(train\.nonfinite_limit={limit}\)"
    with pytest.raises(DivergedError, match=said) if ends else nullcontext():
        assert train(tiny(), spoilt, settings, tmp_path).finished


@pytest.mark.compile
def test_the_first_layer_of_a_compiled_model_is_named() -> None:
    """Although compiled code does not call hooks."""
    detector, batch = tiny().train(), next(stream(0))
    name, layer = next((n, m) for n, m in detector.backbone.named_modules() if isinstance(m, torch.nn.Conv2d))
    with torch.no_grad():
        layer.weight.fill_(3e38)
    detector.compile(fullgraph=True, backend="eager")
    _, where = trace_nonfinite(detector, batch, torch.tensor([0, 0]), bf16=False, compiled=True)
    assert where.startswith(f"the output of backbone.{name}"), where


@pytest.mark.parametrize("at", [0, 2])
def test_an_unreadable_file_loses_no_step(tmp_path: Path, at: int) -> None:
    def broken(first: int) -> Iterator[TrainingBatch]:
        for number, batch in enumerate(stream(first), start=first):
            if number == at:
                raise ValueError("photo.jpg is cut off")
            yield batch

    settings = replace(SETTINGS, steps=4)
    whole, again = tiny(), tiny()
    train(whole, stream, settings, tmp_path / "whole")
    with pytest.raises(ValueError, match=r"photo\.jpg is cut off"):
        train(tiny(), broken, settings, tmp_path / "broken")
    assert (tmp_path / "broken" / "last").exists() == (at > 0)  # without a finished step, no file is written
    train(again, stream, settings, tmp_path / "broken", resume=at > 0)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def stopping(at: int, number: int) -> Callable[[int], Iterator[TrainingBatch]]:
    """The stream, with a signal to this process while it waits for batch `at`."""

    def batches(first: int) -> Iterator[TrainingBatch]:
        for index, batch in enumerate(stream(first), start=first):
            if index == at:
                os.kill(os.getpid(), number)
            yield batch

    return batches


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_during_a_wait_for_data_ends_the_run_and_resuming_is_bit_for_bit(
    tmp_path: Path, number: int, accumulate: int
) -> None:
    """Also within a step of several batches: its earlier batches have changed nothing yet."""
    settings = replace(SETTINGS, steps=4, clip_norm=5.0, accumulate=accumulate)
    whole = tiny()
    train(whole, stream, settings, tmp_path / "whole")
    before = signal.getsignal(number)
    outcome = train(tiny(), stopping(3, number), settings, tmp_path / "broken")
    assert (outcome.step, outcome.finished, outcome.signal) == (3 // accumulate, False, number)
    assert signal.getsignal(number) is before
    again = tiny("num_classes=2")
    torch.manual_seed(1234)  # what came between must not matter
    outcome = train(again, stream, settings, tmp_path / "broken", resume=True)
    assert (outcome.step, outcome.finished) == (4, True)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    logs = [read_log(tmp_path / name / "log.jsonl") for name in ("whole", "broken")]
    assert [{**line, "seconds": 0} for line in logs[0]] == [{**line, "seconds": 0} for line in logs[1]]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_during_a_step_lets_the_step_end(tmp_path: Path, number: int) -> None:
    """Also those that SLURM can send before its time limit."""
    detector = tiny()
    detector.register_forward_hook(lambda *_: os.kill(os.getpid(), number))
    outcome = train(detector, stream, SETTINGS, tmp_path)
    assert (outcome.step, outcome.finished, outcome.signal) == (1, False, number)
    assert (tmp_path / "last").exists()


def test_only_the_second_ctrl_c_ends_the_run_at_once() -> None:
    with stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        os.kill(os.getpid(), signal.SIGHUP)  # a terminal and its shell may both send one
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal == signal.SIGHUP
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_during_an_evaluation_ends_the_run_and_the_evaluation_is_repeated(tmp_path: Path) -> None:
    metrics = {"bbox": {"AP": 0.1, "AP50": 0.2}, "segm": {"AP": 0.3, "AP50": 0.4}}

    def interrupted(detector: Detector) -> dict[str, dict[str, float]]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("an evaluation goes on after a stop request")

    settings = replace(SETTINGS, evaluate_every=2)
    outcome = train(tiny(), stream, settings, tmp_path, evaluate=interrupted)
    assert (outcome.step, outcome.finished, outcome.best) == (2, False, None)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [0, 1]
    outcome = train(tiny(), stream, settings, tmp_path, evaluate=lambda detector: metrics, resume=True)
    assert (outcome.step, outcome.finished, outcome.best) == (3, True, 0.3)
    lines = read_log(tmp_path / "log.jsonl")
    assert [(line["step"], "loss" in line) for line in lines] == [
        (0, True), (1, True), (1, False), (2, True), (2, False)
    ]  # fmt: skip


def test_an_error_within_a_step_saves_nothing(tmp_path: Path) -> None:
    """Batch statistics have changed by then, so the state would not belong to any step."""

    def fail(detector: Detector, *_: object) -> None:
        if (tmp_path / "log.jsonl").read_text().count("\n") == 2:
            raise RuntimeError("no memory")

    detector = tiny()
    detector.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="no memory"):
        train(detector, stream, SETTINGS, tmp_path)
    assert not (tmp_path / "last").exists()


def test_best_is_the_best_and_last_the_last(tmp_path: Path) -> None:
    values = iter([0.2, 0.5, None, 0.4])
    weights = []

    def evaluate(detector: Detector) -> dict[str, dict[str, float | None]]:
        weights.append(copy.deepcopy(detector.state_dict()))
        value = next(values)
        return {"bbox": {"AP": 0.1, "AP50": 0.2}, "segm": {"AP": value, "AP50": value}, "per_class": {}}

    settings = replace(SETTINGS, steps=4, evaluate_every=1)
    outcome = train(tiny(), stream, settings, tmp_path, evaluate=evaluate)
    assert outcome.best == 0.5
    assert outcome.metrics is not None
    assert outcome.metrics["segm"]["AP"] == 0.4
    for name, number in (("best", 1), ("last", 3)):
        kept = load_checkpoint(tmp_path / name).state
        assert all(torch.equal(value, kept[key]) for key, value in weights[number].items()), name
    assert not (tmp_path / "best" / "training.pt").exists()
    lines = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["segm_AP"] for line in lines if "segm_AP" in line] == [0.2, 0.5, None, 0.4]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".rcnn-files", "best", "last", "log.jsonl"]


def test_metrics_are_chosen_and_described() -> None:
    metrics: dict[str, object] = {"bbox": {"AP": 0.25, "AP50": None}, "per_class": {}}
    assert flatten(metrics) == {"bbox_AP": 0.25, "bbox_AP50": None}
    assert main_metrics(metrics) == "bbox AP 0.250 AP50 -"
    assert main_metrics(metrics | {"validation_loss": 2.25}) == "bbox AP 0.250 AP50 -, validation loss 2.250"
    assert choose(metrics, "bbox.AP") == choose(metrics, "") == 0.25  # no masks: e.g. a data set of boxes only
    assert choose(metrics, "bbox.AP50") is None
    assert chosen_metric(metrics, "") == "bbox.AP"
    assert chosen_metric({"bbox": {}, "segm": {}}, "") == "segm.AP"
    with pytest.raises(ValueError, match=r"segm\.AP was not measured.*bbox\.AP"):
        choose(metrics, "segm.AP")


def test_frozen_parameters_do_not_change(tmp_path: Path) -> None:
    detector = tiny()
    detector.backbone.requires_grad_(False)
    held = {name: value.clone() for name, value in detector.backbone.named_parameters()}
    count = sum(len(group["params"]) for group in build_optimizer(detector, SETTINGS).param_groups)
    assert count == sum(parameter.requires_grad for parameter in detector.parameters())
    train(detector, stream, SETTINGS, tmp_path)
    assert all(torch.equal(value, held[name]) for name, value in detector.backbone.named_parameters())


def test_checkpoints_are_kept_and_a_time_limit_stops_the_run(tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=5, keep=2, checkpoint_every=3)
    outcome = train(tiny(), stream, settings, tmp_path / "kept")
    assert outcome.finished
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        ".rcnn-files", "last", "log.jsonl", "step-2", "step-4"
    ]  # fmt: skip
    assert load_checkpoint(tmp_path / "kept" / "step-2").classes == CLASSES
    detector = tiny()
    outcome = train(detector, stream, replace(settings, time_limit=1e-9), tmp_path / "limited")
    assert (outcome.step, outcome.finished, outcome.signal) == (0, False, None)
    outcome = train(detector, stream, settings, tmp_path / "limited")
    assert (outcome.step, outcome.finished) == (5, True)
