"""The checksum inside exported files."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rcnn.runtime.checksum import UNSEALED, is_changed, seal


def test_the_checksum_is_that_of_the_file_with_empty_room(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    content = f'weights {{"checksum": "{UNSEALED}"}} more weights'.encode()
    path.write_bytes(content)
    assert not is_changed(path), "never sealed"
    for _ in range(2):  # again, as for a file whose record was copied
        seal(path)
        assert hashlib.sha256(content).hexdigest().encode() in path.read_bytes()
        assert not is_changed(path)
    for place in (3, len(content) - 2):
        changed = bytearray(path.read_bytes())
        changed[place] ^= 1
        path.write_bytes(changed)
        assert is_changed(path)
        seal(path)


def test_the_weights_of_openvino_count(tmp_path: Path) -> None:
    path, weights = tmp_path / "a.xml", tmp_path / "a.bin"
    path.write_text(f"<net>{UNSEALED}</net>")
    weights.write_bytes(b"weights")
    seal(path)
    assert not is_changed(path)
    weights.write_bytes(b"wEights")
    assert is_changed(path)


def test_a_file_without_room_is_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"weights")
    assert not is_changed(tmp_path / "a.onnx")
    with pytest.raises(ValueError, match=r"a\.onnx has no room for a checksum"):
        seal(tmp_path / "a.onnx")
