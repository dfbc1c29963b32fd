"""Training images that cannot be read when a run is started, and when it is resumed."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from rcnn.models import model_config
from rcnn.training.request import RunRequest
from rcnn.training.run_data import open_run_data
from tests.tiny_data import write_tiny_coco


def test_of_two_images_with_one_file_a_resumed_run_leaves_out_the_same(tmp_path: Path) -> None:
    data = write_tiny_coco(tmp_path, {"train": 3}, size=(48, 64))
    file = data / "annotations" / "instances_train.json"
    tables = json.loads(file.read_text())
    tables["images"].append(tables["images"][0] | {"id": 4, "width": 60})  # the file of image 1, and a wrong size
    file.write_text(json.dumps(tables))
    request = RunRequest(model="mask_rcnn_compact", data=data, val_fraction=0.0)
    opened = partial(open_run_data, request, model_config("mask_rcnn_compact"), filter_empty=False, log=print)
    first = opened(None)
    record = json.loads(json.dumps(first.record | {"classes": first.training.classes}))
    assert first.training.image_ids == (1, 2, 3)
    assert record["left_out"] == [4]
    assert opened(record).training.image_ids == (1, 2, 3)
