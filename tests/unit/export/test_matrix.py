"""The support matrix of docs/deploy.md: complete, and equal to the stored results of benchmarks/export_matrix.py."""

from __future__ import annotations

import pytest
from benchmarks.export_matrix import BEGIN, END, PAGE, TARGETS, cell_of, page_with, read_results, small, table

from rcnn.export.compare import Difference
from rcnn.export.support import unsupported
from rcnn.models import list_models

KINDS = ("faster_rcnn_compact", "mask_rcnn_compact", "cascade_mask_rcnn_compact", "keypoint_rcnn_compact")


def test_the_page_lists_every_model_and_target() -> None:
    page = PAGE.read_text(encoding="utf-8")
    block = page.partition(BEGIN)[2].partition(END)[0]
    assert block == table(read_results())
    rows = [line.split(" | ") for line in block.splitlines()[2:]]
    assert [row[0] for row in rows] == [f"| `{name}`" for name in list_models()]
    assert all(len(row) == 1 + len(TARGETS) for row in rows)


def test_a_page_gets_a_new_table() -> None:
    assert page_with("new\n", f"a\n{BEGIN}old\n{END}b\n") == f"a\n{BEGIN}new\n{END}b\n"


@pytest.mark.parametrize("name", KINDS)
def test_one_compact_model_per_kind_can_be_exported(name: str) -> None:
    """tests/unit/export/test_export.py exports these kinds to ONNX and compares them."""
    assert {cell["status"] for cell in read_results()[name].values()} == {"yes"}


def test_unsupported_cells_are_those_that_the_export_refuses() -> None:
    results = read_results()
    for name, cells in results.items():
        for target in TARGETS:
            reason = unsupported(small(name), target, "float32")
            assert (cells[target]["status"] == "unsupported") == bool(reason), (name, target)
            assert not reason or cells[target]["reason"] == reason
    assert results["fcis_compact"]["onnx"]["status"] == "unsupported"


def test_a_comparison_as_a_cell() -> None:
    assert cell_of(Difference(matched=3, boxes=0.001)) == {"status": "yes", "reason": ""}
    assert cell_of(Difference())["reason"] == "nothing is detected"
    assert cell_of(Difference(matched=3), fixed="only with a --size") == {
        "status": "yes",
        "reason": "only with a --size",
    }
    differs = cell_of(Difference(matched=3, unmatched=1, boxes=0.074))
    assert differs == {"status": "differs", "reason": "boxes by up to 0.074 px, 1 of 4 detections have no match"}


def test_a_file_that_is_nearly_as_near_to_float64_as_pytorch_only_rounds() -> None:
    beside = Difference(matched=3, scores=0.00035)
    near, far = Difference(matched=3, scores=0.0002), Difference(matched=3, scores=0.00041)
    expected = "scores by up to 0.00035 (beside float64, the file and PyTorch: scores 0.00041 and 0.00041)"
    assert cell_of(beside, far, far) == {"status": "rounding", "reason": expected}
    assert cell_of(beside, far, near)["status"] == "differs"
    assert cell_of(beside, Difference(matched=3, scores=0.0001), Difference(matched=3))["status"] == "rounding"
    assert cell_of(beside, Difference(matched=2, unmatched=1), far)["status"] == "differs"
    # also where the file is beyond a tolerance of which the comparison with PyTorch says nothing
    assert cell_of(beside, Difference(matched=3, boxes=0.02), far)["status"] == "differs"
