"""COCO's metrics while results come: batches are matched by threads, one for each kind, beside the caller."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from rcnn.metrics import coco, coco_matching
from rcnn.metrics.coco import CocoEvaluation, evaluate
from rcnn.metrics.inputs import check_truth
from tests.unit.random_truth import random_results, random_truth

Entry = dict[str, Any]
KINDS = ("bbox", "segm")


class Matcher:
    """In place of hotcoco's StreamingEval: counts calls, and can wait or fail in them."""

    calls = 0
    failing = 0  # the number of the call that fails
    together = 0  # the largest number of calls of one evaluation at the same time
    may_end: threading.Event

    def __init__(self, *_: Any, **__: Any) -> None:
        self._inside = 0

    def update(self, *_: Any, **__: Any) -> None:
        self._inside += 1
        Matcher.together = max(Matcher.together, self._inside)
        Matcher.calls += 1
        number = Matcher.calls
        Matcher.may_end.wait(10)
        self._inside -= 1
        if number == Matcher.failing:
            raise KeyError("category 99 is not known")


@pytest.fixture
def matcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Matcher]]:
    Matcher.calls = Matcher.failing = Matcher.together = 0
    Matcher.may_end = threading.Event()
    monkeypatch.setattr(coco_matching, "StreamingEval", Matcher)
    monkeypatch.setattr(coco, "TOGETHER", 1)
    yield Matcher
    Matcher.may_end.set()


def boxes_evaluation() -> tuple[CocoEvaluation, list[int], list[Entry]]:
    truth = random_truth(0)
    return CocoEvaluation(check_truth(truth, ("bbox",), None), ("bbox",)), [i["id"] for i in truth["images"]], []


def until(is_true: Any) -> None:
    """Wait until `is_true()`, for up to ten seconds."""
    end = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("together", [1, 3, 64])
def test_the_size_of_the_batches_does_not_matter(together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth(1)
    results = random_results(truth, 2)
    expected = evaluate(truth, results, KINDS)
    monkeypatch.setattr(coco, "TOGETHER", together)
    evaluation = CocoEvaluation(check_truth(truth, KINDS, None), KINDS)
    for image in truth["images"]:
        own = [result for result in results if result["image_id"] == image["id"]]
        evaluation.add([image["id"]], own, checked=bool(image["id"] % 2))
    assert evaluation.metrics() == expected


def test_an_error_of_a_thread_is_raised_by_the_next_call_and_at_the_end(matcher: type[Matcher]) -> None:
    evaluation, ids, results = boxes_evaluation()
    matcher.failing = 2
    matcher.may_end.set()
    for image_id in ids[:2]:
        evaluation.add([image_id], results)
    [matching] = evaluation._kinds.values()
    until(matching._last_call.done)
    with pytest.raises(KeyError, match="category 99 is not known"):
        evaluation.add([ids[2]], results)
    for _ in range(2):  # the metrics would lack the batch
        with pytest.raises(KeyError, match="category 99 is not known"):
            evaluation.metrics()
    assert matcher.calls == 2


def test_one_batch_is_matched_at_a_time_and_few_wait(matcher: type[Matcher]) -> None:
    """hotcoco refuses a second call of one evaluation; batches that wait keep their results in memory."""
    evaluation, ids, results = boxes_evaluation()
    added: list[int] = []

    def add() -> None:
        for image_id in ids:
            evaluation.add([image_id], results)
            added.append(image_id)

    adding = threading.Thread(target=add, daemon=True)
    adding.start()
    until(lambda: len(added) == coco_matching.MAX_UNFINISHED)
    time.sleep(0.05)
    assert added == ids[: coco_matching.MAX_UNFINISHED]
    assert matcher.calls == 1
    matcher.may_end.set()
    adding.join(10)
    [matching] = evaluation._kinds.values()
    matching._last_call.result(10)
    assert added == ids
    assert (matcher.calls, matcher.together) == (len(ids), 1)


def test_an_interrupt_does_not_wait_for_the_threads(matcher: type[Matcher]) -> None:
    evaluation, ids, results = boxes_evaluation()
    evaluation.add([ids[0]], results)
    threading.Timer(0.05, signal.pthread_kill, [threading.get_ident(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        evaluation.metrics()
    assert not matcher.may_end.is_set()


def test_results_that_are_checked_are_not_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth(3)
    results = [result for result in random_results(truth, 4) if result["image_id"] == 1]
    seen: list[Entry] = []
    monkeypatch.setattr(coco, "check_fields", seen.extend)
    evaluation = CocoEvaluation(check_truth(truth, KINDS, None), KINDS)
    evaluation.add([1], results, checked=True)
    evaluation.add([2], [results[0] | {"image_id": 2}])
    assert evaluation.metrics().to_dict()["counts"]["detections"] == len(results) + 1
    assert [result["image_id"] for result in seen] == [2]
