"""`rcnn data check` and `--fix` on mutated annotation files: a report, or one clear error; never a traceback."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rcnn.data.inspect.check import check_dataset
from rcnn.data.inspect.fix import fix_dataset
from tests.faults.mutations import MUTANTS, mutate
from tests.unit.data.inspect_faults import Data, write_clean, write_tables


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data]:
    root = tmp_path_factory.mktemp("clean")
    return root, write_clean(root)


@st.composite
def mutated(draw: st.DrawFn, tables: Any) -> Any:
    """The tables with one to three mutations."""
    changed = copy.deepcopy(tables)
    for _ in range(draw(st.integers(1, 3))):
        changed = mutate(draw, changed)
    return changed


@settings(
    max_examples=MUTANTS // 4, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(drawn=st.data())
def test_a_mutated_file_gives_a_report(clean: tuple[Path, Data], drawn: st.DataObject) -> None:
    root, data = clean
    tables = drawn.draw(mutated(data["val"]))
    write_tables(root, {"train": data["train"]})
    (root / "annotations" / "instances_val.json").write_text(json.dumps(tables))
    report = check_dataset(root, no_images=True)
    assert "train" in report.images
    json.dumps(report.to_dict())
    for line in report.lines():
        line.encode("utf-8")


@settings(
    max_examples=MUTANTS // 16, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(drawn=st.data())
def test_a_repaired_copy_of_a_mutated_file_has_fewer_errors(
    clean: tuple[Path, Data], tmp_path_factory: pytest.TempPathFactory, drawn: st.DataObject
) -> None:
    root, data = clean
    tables = drawn.draw(mutated(data["val"]))
    write_tables(root, {"train": data["train"]})
    (root / "annotations" / "instances_val.json").write_text(json.dumps(tables))
    report = fix_dataset(root, tmp_path_factory.mktemp("fixed"))
    repaired = [one for one in report.after.errors if f"{one.what}: the split was not written" not in report.not_fixed]
    assert {one.kind for one in repaired} <= {"no-objects", "box-form"}, report.after.lines()
