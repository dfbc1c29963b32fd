"""A disk that is full while a torch.export program is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from rcnn.export.files import write_file
from rcnn.models import model_config
from rcnn.runtime.record import KEY, ExportRecord
from tests.unit.export.detectors import files_of_at_most


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_full_disk_is_an_error_and_does_not_end_the_process(tmp_path: Path) -> None:
    """In a process of its own: torch's writer of files ended it by SIGABRT."""
    program = torch.export.export(torch.nn.Linear(100, 100), (torch.zeros(1, 100),))
    record = ExportRecord(config=model_config("faster_rcnn_compact"), classes=(), target="torch")
    if not (child := os.fork()):
        try:
            with files_of_at_most(20_000):
                write_file(program, record, tmp_path / "a.pt2")
        except OSError:
            os._exit(3)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    write_file(program, record, tmp_path / "b.pt2")
    extra = {f"{KEY}.json": ""}
    loaded = torch.export.load(tmp_path / "b.pt2", extra_files=extra)
    assert extra[f"{KEY}.json"] == record.text()
    assert torch.equal(loaded.state_dict["weight"], program.state_dict["weight"])
