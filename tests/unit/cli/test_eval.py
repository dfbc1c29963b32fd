"""Options of `rcnn eval` that saved results cannot have."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import rcnn


def test_options_of_a_model_are_refused_with_saved_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "results_bbox.json"
    results.write_text('[{"image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9], "score": 0.5}]')
    assert rcnn("eval", results, "--data", tmp_path, "--tta", "640,800", "--padding", "bucket", "--compile") == 2
    assert capsys.readouterr().err == (
        f"rcnn: --tta, --padding, --compile cannot be used with saved results ({results}); leave them out, or give "
        "the model instead of its results\n"
    )
