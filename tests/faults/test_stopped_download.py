"""Ctrl-C during a slow download: the command ends in seconds, and what has arrived remains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.unit.download.server import CONTENT, serving

# `rcnn data download tiny`, whose only archive is on the server at argv[1]
COMMAND = """
import signal, sys
from rcnn.cli.main import main
from rcnn.download.catalogue import DOWNLOADS, Archive, Download
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
archive = Archive(urls=(sys.argv[1],), creates=("train",), source="the test", size=int(sys.argv[2]))
DOWNLOADS["tiny"] = Download(splits={"train": (archive,)}, default=("train",))
main(["data", "download", "tiny", "--output", sys.argv[3]])
"""


@pytest.mark.parametrize("kind", ["drip", "drip_headers"])
def test_ctrl_c_ends_a_download_of_a_byte_at_a_time(tmp_path: Path, kind: str) -> None:
    output = tmp_path / "out"
    with serving() as (address, asked):
        words = [sys.executable, "-c", COMMAND, f"{address}/{kind}/a.zip", str(len(CONTENT)), str(output)]
        environment = {**os.environ, "no_proxy": "*"}
        process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
        part = output / "downloads" / "a.zip.part"
        end = time.monotonic() + 120  # the imports take long on a busy machine
        while not (part.exists() if kind == "drip" else asked):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        time.sleep(1)  # ten bytes: what has arrived is still in a buffer, and the file is empty
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert time.monotonic() - sent < 30  # the server sends for 60 seconds
    assert process.returncode == 128 + signal.SIGINT, errors
    assert errors.splitlines()[-1] == "rcnn: stopped by SIGINT"
    assert "Traceback" not in errors
    if kind == "drip":
        assert part.stat().st_size > 0
