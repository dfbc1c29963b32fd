"""Fixtures for all tests: shared data, a fixed seed, a time limit, and the CPU time of each mark beside its budget."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

import pytest

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is imported: its kernels then run on the CPU
# Byte code of rcnn is written, even where the environment forbids it: each process that a test starts would compile it.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# a shell starts background jobs with Ctrl-C ignored, and every process that a test starts would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# openvino sends usage data when a test imports it, unless this package is missing
sys.modules.update(cast("dict[str, Any]", {"openvino_telemetry": None}))

ROOT = Path(__file__).resolve().parents[1]
LIMIT = 600  # seconds of a test, and of its fixtures: far more than any needs, also on a busy machine
SHARED = ROOT.parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden outputs, real weights and photos next to a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip("needs the project's shared data (../shared beside the checkout), which is not in the repository")
    return SHARED


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test downloads weights or uses those of the machine; tests of downloads have a local server."""
    monkeypatch.setenv("RCNN_OFFLINE", "1")
    monkeypatch.setenv("RCNN_CACHE", str(tmp_path_factory.getbasetemp() / "rcnn-cache"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    import torch  # here: with pytest-xdist, the process that only hands out the tests does without it

    torch.manual_seed(0)


@pytest.fixture(scope="session")
def _compiler_is_loaded() -> Generator[None, None, None]:
    """The first compilation imports 200,000 objects, which garbage collection would visit after each compiled test.

    What an operation does to the shapes of its inputs is kept from test to test, which saves a fifth of the tracing.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from tests.compiled import BACKWARD

    torch.compile(torch.nn.ReLU(), backend=BACKWARD)(torch.ones(1))
    torch.compiler.reset()
    gc.collect()
    gc.freeze()
    with patch.object(FakeTensorMode, "cache_clear"):  # which reset() calls
        yield


@pytest.fixture(autouse=True)
def _compiled_graphs_are_released(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Compiled graphs keep their detectors in memory for the whole process otherwise."""
    is_compiled = request.node.get_closest_marker("compile") is not None
    if is_compiled:
        request.getfixturevalue("_compiler_is_loaded")
    yield
    if is_compiled:
        import torch

        if torch._dynamo.convert_frame.FRAME_COUNTER:  # else the test found that there was nothing to compile
            torch.compiler.reset()
            gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`budgets` of pyproject.toml: lines "mark: seconds"."""
    parser.addini("budgets", "seconds that the tests of a mark may take on one idle core", type="linelist", default=[])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests below tests/parity and tests/faults have the mark of their folder."""
    for item in items:
        folder = item.path.relative_to(ROOT).parts[1]
        if folder in ("parity", "faults"):
            item.add_marker(folder)


def pytest_collection_finish() -> None:
    """Exclude imported modules and collected tests from garbage collection, which would visit them again and again.

    pytest captures the log of every logger that does not propagate. torch writes its structured trace (the text of each
    graph and guard, 6 % of the time of a compilation) as soon as that logger has a handler, so it propagates here.
    """
    gc.collect()
    gc.freeze()
    logging.getLogger("torch.__trace").propagate = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """Limit and count the time of a test's fixtures."""
    with _limited(item):
        yield from _timed(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Limit and count the time of a test."""
    with _limited(item):
        yield from _timed(item)


@contextmanager
def _limited(item: pytest.Item) -> Generator[None, None, None]:
    """Fail the test where it waits after LIMIT seconds, so that a process that never ends does not stop all tests."""
    if not hasattr(signal, "SIGALRM") or item.get_closest_marker("exhaustive") is not None:
        yield
        return

    def fail(*_: object) -> None:
        pytest.fail(f"{item.nodeid} has not ended after {LIMIT} seconds: the traceback shows what it waits for")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(LIMIT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _timed(item: pytest.Item) -> Generator[None, None, None]:
    before = sum(os.times()[:4])  # of this process and of the finished ones that it started
    try:
        yield
    finally:
        item.user_properties.append(("cpu_seconds", sum(os.times()[:4]) - before))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the CPU time of each mark and its budget."""
    budgets, spent = _budgets(config), _cpu_seconds(terminalreporter, config)
    for mark, seconds in sorted(spent.items()):
        budget = f" of {budgets[mark]:.0f} s" if mark in budgets else " s"
        terminalreporter.write_line(f"{mark}: {len(seconds)} tests, CPU time {sum(seconds):.0f}{budget}")


def _budgets(config: pytest.Config) -> dict[str, float]:
    return {mark: float(seconds) for mark, seconds in (line.split(":") for line in config.getini("budgets"))}


def _cpu_seconds(reporter: pytest.TerminalReporter, config: pytest.Config) -> dict[str, list[float]]:
    """The CPU time of each test, by mark; a test with several marks counts for the first one that has a budget."""
    budgets = _budgets(config)
    spent: defaultdict[str, list[float]] = defaultdict(list)
    for reports in reporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "teardown":
                mark = next((mark for mark in budgets if mark in report.keywords), "unmarked")
                values = [float(str(value)) for name, value in report.user_properties if name == "cpu_seconds"]
                spent[mark].append(sum(values))
    return spent
