"""The evaluation text that COCO's own code printed for the results published with it, to the last digit printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from rcnn.metrics.coco import METRICS, evaluate


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_numbers_that_coco_printed(shared: Path, kind: str) -> None:
    folder = shared / "data" / "cocoeval_reference"
    text = (folder / "val2014_fake_eval_res.txt").read_text()
    [section] = [part for part in text.split("type=")[1:] if part.startswith(f"{kind}\n")]
    printed = re.findall(r"= (-?\d\.\d{3})$", section, flags=re.MULTILINE)
    assert len(printed) == 12
    results = json.loads((folder / f"instances_val2014_fake{kind}100_results.json").read_text())
    metrics = evaluate(folder / "instances_val2014_100.json", results, (kind,))
    ours = {name: f"{value:.3f}" for name, value in metrics.kinds[kind].items() if value is not None}
    assert ours == dict(zip(METRICS[kind], printed, strict=True))
    assert metrics.images == 100
