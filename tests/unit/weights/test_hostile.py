"""Damaged and hostile files: each is refused with an error that names it, runs nothing, and takes no memory."""

from __future__ import annotations

import os
import pickle
import resource
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.weights.readers.open_file import read_container
from rcnn.weights.readers.state_dict import find_weights
from rcnn.weights.systems.known import convert
from tests.faults.forked_commands import forked
from tests.unit.weights import hostile_files as make
from tests.unit.weights.hostile_files import loaded

MOST_MEMORY = 64 << 20  # bytes that reading any file of these may take


def read_all(path: Path) -> int:
    """The number of elements of all tensors in the file; reads each."""
    found = find_weights(path)
    return sum(found.state[name].numel() for name in found.state)


def refusal(path: Path) -> str:
    """The error for `path` when all of it is read; peak memory must stay low."""
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            read_all(path)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", make.WRITERS)
def test_the_undamaged_files_are_readable(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "weights.bin"
    make.WRITERS[kind](path)
    found = find_weights(path)
    for name, expected in make.ARRAYS.items():
        got = found.state[f"group/{name}" if kind == "hdf5" else name]
        np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("kind", make.WRITERS)
@pytest.mark.parametrize("part", [0.02, 0.2, 0.4, 0.6, 0.8, 0.97, 0.999])
def test_files_truncated_anywhere_are_refused(tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / "weights.bin"
    make.WRITERS[kind](path)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(len(whole) - 1, int(len(whole) * part))])
    assert "copy or download it again" in (said := refusal(path)) or "copy the file again" in said


@pytest.mark.parametrize("kind", make.WRITERS)
def test_garbled_files_are_errors_or_harmless(tmp_path: Path, kind: str) -> None:
    """Any changed byte gives ValueError at most, and never a shape larger than the file."""
    path = tmp_path / "weights.bin"
    make.WRITERS[kind](path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    errors: list[str] = []
    for at in rng.integers(0, len(whole), 60):
        garbled = bytearray(whole)
        garbled[at] ^= int(rng.integers(1, 256))
        path.write_bytes(garbled)
        try:
            assert read_all(path) <= 8 * 60 * 4
        except ValueError as error:
            errors.append(str(error))
    assert len(errors) > 5
    assert all(str(path) in error for error in errors)


F4 = "{'descr': '<f4', 'fortran_order': False, 'shape': "
WRONG: dict[str, tuple[make.Maker, str]] = {
    "empty": (make.raw(b""), "is empty"),
    "web page": (make.raw(b"<!DOCTYPE html><html>not found</html>"), "web page"),
    "LFS pointer": (make.raw(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"), "git lfs pull"),
    "json": (make.raw(b'{"message": "Not Found"}'), "is a text file"),
    "words": (make.raw(b"# weights\n" * 20), "is a text file"),
    "gzip": (make.raw(b"\x1f\x8b\x08\x00" + bytes(30)), "gunzip"),
    "tar": (make.raw(bytes(257) + b"ustar" + bytes(300)), "tar archive"),
    "tensorflow index": (make.raw(bytes(300) + bytes.fromhex("57fb808b247547db")), "index of a TensorFlow"),
    "tensorflow pointer": (make.raw(b'model_checkpoint_path: "model-1"\n'), "names the newest TensorFlow checkpoint"),
    "onnx": (make.raw(b"\x08\x08\x12\x07pytorch\x1a\x032.0" + bytes(90)), "ONNX"),
    "protocol buffer": (make.raw(b"\x0a\x20conv1" + bytes(range(90))), "protocol buffer"),
    "photo": (make.raw(b"\xff\xd8\xff\xe0" + bytes(90)), "JPEG image"),
    "noise": (make.raw(np.random.default_rng(1).bytes(600)), "has an unknown format"),
    "npy": (make.raw(make.npy(np.zeros(3))), "single numpy array"),
    "empty zip": (make.npz_of({}), "empty zip"),
    "zip of photos": (make.npz_of({"a.jpg": b"x", "b.jpg": b"y"}), "without data.pkl"),
    "torchscript": (
        lambda path: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), path),
        "TorchScript program",
    ),
    "big-endian": (
        make.npz_of({"a/data.pkl": b"\x80\x04}.", "a/byteorder": b"big"}),
        "big-endian",
    ),
    "only numbers": (make.raw(pickle.dumps({"epoch": 3})), "no named tensors: found epoch"),
    "a number": (make.raw(pickle.dumps(3, protocol=2)), "no named tensors: found int"),
    # names
    "names that are numbers": (make.raw(pickle.dumps({3: np.zeros(2), "a": np.zeros(1)})), "expected text"),
    "names that are tuples of tuples": (make.raw(pickle.dumps({((1, 2), 3): np.zeros(2)})), "keys of type tuple"),
    "twice": (make.raw(pickle.dumps({"module.a": np.zeros(2), "a": np.zeros(2)})), "tensors twice"),
    # numpy's arrays
    "array of objects": (make.raw(pickle.dumps({"a": np.array([{}, None])})), "array of type O8"),
    "array of records": (make.raw(pickle.dumps({"a": np.zeros(2, dtype="i4,f4")})), "V8"),
    "dates": (make.raw(pickle.dumps({"a": np.zeros(2, dtype="M8[s]")})), "M8"),
    "giant shape": (make.raw(make.numpy_array((1 << 31, 1 << 31))), "not possible for weights"),
    "shape without bytes": (make.raw(make.numpy_array((1 << 20, 64), content=b"1234")), "has 4 bytes"),
    "negative shape": (make.raw(make.numpy_array((-1, -4), content=b"1234")), "shape"),
    "too many axes": (make.raw(make.numpy_array((1,) * 64, content=b"1234")), "64 axes"),
    "npz of objects": (make.npz_of({"a.npy": make.npy(np.array([{}], dtype=object))}), "pickle of Python objects"),
    "npz of giant shape": (make.npz_of({"a.npy": make.npy_header(F4 + "(999999, 999999), }", b"12")}), "expected 39"),
    "npz with code for a header": (
        make.npz_of({"a.npy": make.npy_header("__import__('os').system('id')")}),
        "does not start with the header",
    ),
    "npz with a long header": (
        make.npz_of({"a.npy": make.npy_header(F4 + "(" + "1," * 9000 + ")}")}),
        "does not start",
    ),
    # torch's tensors
    "torch: offset outside": (
        make.zipped_pickle(make.torch_tensor(offset=1 << 40), {"0": bytes(16)}), "reaches number",
    ),
    "torch: stride outside": (
        make.zipped_pickle(make.torch_tensor(strides=(1 << 40, 1)), {"0": bytes(16)}), "reaches number",
    ),
    "torch: negative stride": (
        make.zipped_pickle(make.torch_tensor(strides=(-2, 1)), {"0": bytes(16)}), "negative",
    ),
    "torch: negative offset": (make.zipped_pickle(make.torch_tensor(offset=-1), {"0": bytes(16)}), "negative"),
    "torch: giant shape": (
        make.zipped_pickle(make.torch_tensor(shape=(1 << 31, 1 << 31), strides=(0, 0)), {"0": bytes(16)}),
        "not possible for weights",
    ),
    "torch: one number a billion times": (
        make.zipped_pickle(make.torch_tensor(shape=(1 << 20, 1 << 15), strides=(0, 0)), {"0": bytes(16)}),
        "a bomb",
    ),
    "torch: numbers missing": (make.zipped_pickle(make.torch_tensor(), {}), "is missing"),
    "torch: fewer numbers": (make.zipped_pickle(make.torch_tensor(numel=400), {"0": bytes(16)}), "400 numbers in 16"),
    "torch: storage of giant length": (
        make.zipped_pickle(make.torch_tensor(numel=1 << 62), {"0": bytes(16)}), "no length",
    ),
    "torch: quantised storage": (
        make.zipped_pickle(make.torch_tensor(kind="QInt8Storage"), {"0": bytes(16)}), "QInt8Storage",
    ),
    "torch: quantised": (
        make.zipped_pickle(make.torch_tensor(rebuild="_rebuild_qtensor"), {"0": bytes(16)}), "quantized tensor",
    ),
    "torch: sparse": (
        lambda path: torch.save({"w": torch.eye(3).to_sparse()}, path), "sparse tensor",
    ),
    "torch: complex": (lambda path: torch.save({"w": torch.zeros(3, dtype=torch.complex64)}, path), "complex numbers"),
    "torch: a whole model": (lambda path: torch.save(torch.nn.Linear(2, 2), path), "torch.nn.modules.linear.Linear"),
    # safetensors
    "safetensors: long header": (make.raw(struct.pack("<Q", 1 << 40)[:7] + b"\0{" + bytes(20)), "header of"),
    "safetensors: not JSON": (make.safetensors_of(b"{'a': 1}"), "not JSON"),
    "safetensors: outside": (
        make.safetensors_of(b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}', bytes(4)), "outside",
    ),
    "safetensors: other shape": (
        make.safetensors_of(b'{"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}', bytes(4)), "has 4 bytes",
    ),
    "safetensors: overlap": (
        make.safetensors_of(
            b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}, '
            b'"b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]}}', bytes(6)
        ),
        "overlap",
    ),
    "safetensors: half a tensor": (make.safetensors_of(b'{"a": {"dtype": "F32"}}'), "is incomplete"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_files_that_are_not_what_they_should_be(tmp_path: Path, case: str) -> None:
    write, message = WRONG[case]
    path = tmp_path / "weights.bin"
    write(path)
    assert message in refusal(path)


def test_folders_pipes_and_files_that_are_not_there(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere.pkl")
    assert "is a folder" in refusal(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert "TensorFlow" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.pkl")  # opening one to read would wait for ever
    assert "not a regular file" in refusal(tmp_path / "pipe.pkl")
    assert "not a regular file" in refusal(Path("/dev/zero"))


def nested(depth: int) -> bytes:
    return b"\x80\x04" + b"]" * depth + b"a" * (depth - 1) + b"."


def laughs() -> bytes:
    """Forty nested tuples, each with the previous one twice: 2 ** 40 leaves when traversed."""
    array = make.numpy_array((1,), content=b"1234")[len(b"\x80\x04}" + make.text("w")) : -len(b"s.")]
    state = b"}" + make.text("w") + array + b"s"
    return b"\x80\x04}" + make.text("model") + state + b"s" + make.text("x") + b")" + b"2\x86" * 40 + b"s."


def overlapping(path: Path) -> None:
    """Two directory entries for the same bytes of the file, as in David Fifield's bomb."""
    make.npz_of({"a.npy": make.npy(np.zeros(4)), "b.npy": make.npy(np.ones(4))})(path)
    content = bytearray(path.read_bytes())
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = struct.pack("<I", 0)
    path.write_bytes(content)


def said_to_be(size: int, path: Path) -> None:
    """A zip file with entries that claim `size` bytes each."""
    make.npz_of({f"{name}.npy": make.npy(np.zeros(4)) for name in "ab"}, zipfile.ZIP_DEFLATED)(path)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + 24 : at + 28] = struct.pack("<I", size)
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)


def packed_zeros(path: Path) -> None:
    """Zeros that unpack to 4 GB, as declared."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    content = b"".join(packer.compress(bytes(1 << 20)) for _ in range(64)) + packer.flush()
    make.npz_of({"a.npy": b"x"}, zipfile.ZIP_DEFLATED)(path)
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(content), 4 << 29, 5, 0) + b"a.npy"
    listed = struct.pack(
        "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, 0, len(content), 4 << 29, 5, 0, 0, 0, 0, 0, 0
    )
    listed += b"a.npy"
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(listed), len(local) + len(content), 0)
    path.write_bytes(local + content + listed + end)


def many_members(path: Path) -> None:
    make.npz_of({"a.npy": make.npy(np.zeros(4))})(path)
    content = bytearray(path.read_bytes())
    end = content.rindex(b"PK\x05\x06")
    content[end + 8 : end + 12] = struct.pack("<HH", 65_535, 65_535)
    path.write_bytes(content)


BOMBS: dict[str, tuple[make.Maker, str]] = {
    "bytes of 2 ** 62": (make.raw(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"abc."), "it ends at byte"),
    "text of 2 ** 40": (make.raw(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc."), "it ends at byte"),
    "bytes of 4 GB": (make.raw(b"\x80\x04B\xff\xff\xff\xffabc."), "it ends at byte"),
    "bytearray of 2 ** 50": (make.raw(b"\x80\x05\x96" + struct.pack("<Q", 1 << 50) + b"."), "it ends at byte"),
    "python 2 string of -1": (make.raw(b"\x80\x02T\xff\xff\xff\xff."), "truncated or damaged"),
    "frame of 2 ** 62": (make.raw(b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"]."), "no named tensors"),
    "number of 2 GB": (make.raw(b"\x80\x02\x8b\xff\xff\xff\x7f1."), "number of 2147483647 bytes"),
    "number of many digits": (make.raw(b"(I" + b"9" * 100_000 + b"\nl."), "digits"),
    "very deep": (make.raw(nested(20_000)), "deep"),
    "laughs": (make.raw(laughs()), ""),
    "memo far out": (make.raw(b"\x80\x02]r\xff\xff\xff\xff0h\x01."), "refers to memo entry"),
    "overlapping": (overlapping, "verlap"),
    "said to be 4 GB": (lambda path: said_to_be(0xFFFFFFF0, path), "bomb"),
    "zeros packed": (packed_zeros, "bomb"),
    "many members": (many_members, "members in a directory"),
}  # fmt: skip


@pytest.mark.parametrize("case", [case for case in BOMBS if case != "laughs"])
def test_bombs_are_refused_in_little_memory(tmp_path: Path, case: str) -> None:
    write, message = BOMBS[case]
    path = tmp_path / "bomb.bin"
    write(path)
    assert message in refusal(path)


def test_billion_laughs_yaml_is_refused(tmp_path: Path) -> None:
    """Other entries are traversed once, however often they are referenced."""
    path = tmp_path / "laughs.pkl"
    path.write_bytes(laughs())
    found = find_weights(path)
    assert list(found.state) == ["w"]
    assert "x" in found.extras


def refused_within_a_limit(folder: Path) -> None:
    """Write which of the files in `folder` are refused with 400 MB in addition to what this process has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + 400_000_000,) * 2)
    refused: list[str] = []
    for path in sorted(folder.glob("*.bin")):
        try:
            find_weights(path)
        except ValueError:
            refused.append(path.stem)
    (folder / "refused.txt").write_text("\n".join(refused))


def test_bombs_within_a_limit_on_the_address_space(tmp_path: Path) -> None:
    """The same in a process limited to 400 MB in addition to torch itself."""
    for case, (write, _) in BOMBS.items():
        write(tmp_path / f"{case}.bin")
    process = forked(refused_within_a_limit, tmp_path)
    process.join(120)
    assert process.exitcode == 0
    assert set((tmp_path / "refused.txt").read_text().splitlines()) == set(BOMBS) - {"laughs"}


def test_a_symbolic_link_in_a_zip_file_leads_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "links.npz"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("../../../etc/passwd.npy")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, make.npy(np.zeros(2)))
    before = set(tmp_path.rglob("*"))
    content: Any = loaded(read_container(path).content)
    assert content["../../../etc/passwd"].tolist() == [0, 0]
    assert set(tmp_path.rglob("*")) == before
    with pytest.raises(ValueError, match=r"links\.npz belongs to no known system"):
        convert(path)
