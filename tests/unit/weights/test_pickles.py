"""Pickles of every kind: weights are read, a payload is refused by name and never run, damage is reported."""

from __future__ import annotations

import os
import pickle
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from rcnn.weights.readers.open_file import read_container
from rcnn.weights.readers.state_dict import find_weights
from tests.unit.weights.hostile_files import loaded


def pickled(value: Any, path: Path) -> None:
    path.write_bytes(pickle.dumps(value))


def zipped(value: Any, path: Path) -> None:
    torch.save(value, path)


def legacy(value: Any, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


def read_pickle(path: Path) -> Any:
    """All that the file holds."""
    return loaded(read_container(path).content)


WRITERS = [pickled, zipped, legacy]


class Payload:
    """An ordinary unpickler would create a file."""

    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "a.pkl"
    expected = {
        "w": np.arange(6, dtype=np.float32).reshape(2, 3),
        "t": np.asfortranarray(np.eye(2)),
        "n": np.float64(0.5),
    }
    path.write_bytes(pickle.dumps({"model": OrderedDict(expected), "__author__": "any"}, protocol=protocol))
    got = read_pickle(path)
    assert got["__author__"] == "any"
    for name, value in expected.items():
        np.testing.assert_array_equal(got["model"][name], value)


def test_arrays_of_python_2(tmp_path: Path) -> None:
    """Byte strings, old module names, protocol 2: as in Detectron's files."""
    path = tmp_path / "a.pkl"
    path.write_bytes(
        b"\x80\x02}q\x00U\x05conv1cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89U\x08\x00\x00\x80?\x00\x00\x80\xbftbs."
    )
    got = read_pickle(path)
    assert list(got) == ["conv1"]
    np.testing.assert_array_equal(got["conv1"], np.array([1, -1], dtype=np.float32))


@pytest.mark.parametrize("write", [zipped, legacy])
def test_tensors_of_both_formats_with_other_entries(tmp_path: Path, write: Callable[..., None]) -> None:
    path = tmp_path / "a.pth"
    beside = {"iteration": 7, "best": np.float64(0.25), "when": np.int64(3), "curve": np.arange(3.0)}
    write({"model": OrderedDict(w=torch.arange(3.0)), **beside}, path)
    got = read_pickle(path)
    assert torch.equal(got["model"]["w"], torch.arange(3.0))
    assert (got["best"], got["when"], got["curve"].tolist()) == (0.25, 3, [0, 1, 2])


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    "name",
    [
        "yacs.config.CfgNode",
        "fvcore.common.config.CfgNode",
        "detectron2.config.config.CfgNode",
        "easydict.EasyDict",
        "addict.addict.Dict",
        "mmcv.utils.config.ConfigDict",
        "mmengine.config.config.ConfigDict",
        "collections.defaultdict",
    ],
)
def test_weights_beside_settings_in_a_dict_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, protocol: int
) -> None:
    """One item, several items, and one within another; the classes of other packages are stand-ins."""
    module, _, word = name.rpartition(".")
    if module == "collections":
        new: Callable[..., Any] = partial(defaultdict, list)
    else:
        new = type(word, (dict,), {"__module__": module})
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
        monkeypatch.setattr(sys.modules[module], word, new, raising=False)
    path = tmp_path / "a.pkl"
    settings = [new(a=1), new(a=1, b=[2]), new(a=new(b=1))]
    path.write_bytes(pickle.dumps({"cfg": settings, "model": {"w": np.arange(3.0)}}, protocol=protocol))
    got = read_pickle(path)
    assert [str(each) for each in got["cfg"]] == [f"<{name}>"] * 3
    assert got["model"]["w"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("call", ["system", "eval", "getattr", "open"])
def test_a_payload_is_refused_and_never_run(tmp_path: Path, write: Callable[..., None], call: str) -> None:
    trace = tmp_path / "ran"
    payload = {
        "system": Payload(os.system, f"touch {trace}"),
        "eval": Payload(eval, f"open({str(trace)!r}, 'w')"),
        "getattr": Payload(getattr, np.ndarray, "tofile"),
        "open": Payload(open, str(trace), "w"),
    }[call]
    path = tmp_path / "hostile.bin"
    write({"model": {"w": torch.zeros(1) if write is not pickled else np.zeros(1)}, "x": payload}, path)
    with pytest.raises(
        ValueError, match=rf"hostile.bin asks for (\w+\.)?{call}, which is neither array nor tensor: refused"
    ):
        read_pickle(path)
    assert not trace.exists()
    if call == "system":  # the payload is a real one: read the ordinary way, it runs
        pickle.loads(pickle.dumps(payload))  # noqa: S301
        assert trace.exists()


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",  # STACK_GLOBAL
        b"(S'id'\nios\nsystem\n.",  # INST
        b"cnumpy.core.multiarray\nscalar\n(cnumpy\ndtype\n(S'O8'\nI0\nI1\ntRS'x'\ntR.",  # a scalar that is an object
        b"cnumpy._core.numeric\n_frombuffer\n(N}S'__call__'\nNstb.",  # attributes of what stands for a function
        b"c_codecs\nencode\n(S'x'\nS'hex'\ntR.",
    ],
)
def test_handwritten_attacks(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(body)
    with pytest.raises(
        ValueError, match=r"a\.pkl (asks for|was refused, and no code .* run: it contains|is truncated or damaged)"
    ):
        read_pickle(path)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, write: Callable[..., None], part: float) -> None:
    path = tmp_path / "a.pth"
    write({"model": {"w": np.zeros(1000) if write is pickled else torch.zeros(1000)}}, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(ValueError, match=r"a\.pth is truncated or damaged"):
        read_pickle(path)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "git lfs pull"),
        (b"<!DOCTYPE html>", "is a web page"),
        (b'\x08\0\0\0\0\0\0\0{"a": {}}', "is truncated or damaged"),
        (b'{"a": 1}', "is a text file"),
        (b"# notes", "is a text file"),
        (b"\xff\xd8\xff\xe0 a photo", "is a JPEG image"),
    ],
)
def test_what_is_no_pickle_is_named(tmp_path: Path, body: bytes, message: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(body)
    with pytest.raises(ValueError, match=message):
        read_pickle(path)
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pkl"):
        read_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(ValueError, match="is a folder"):
        read_pickle(tmp_path)


@pytest.mark.parametrize("write", [zipped, legacy])
def test_tensors_of_every_kind_are_what_torch_itself_reads(tmp_path: Path, write: Callable[..., None]) -> None:
    """Views of one storage: in any order, empty, of every type."""
    path = tmp_path / "a.pth"
    flat = torch.arange(60.0)
    square = flat[:36].view(6, 6)
    expected = {
        "whole": square, "part": flat[7:11], "turned": square.t(), "steps": square[::2, 1::3], "one": flat[5],
        "none": torch.empty(0, 3), "spread": flat[:1].expand(4, 3), "same": square,
        "parameter": torch.nn.Parameter(flat[50:]),
    }  # fmt: skip
    for dtype in (
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
    ):
        expected[str(dtype)] = torch.arange(5).to(dtype)
    expected["bool"] = torch.tensor([True, False])
    write({"state_dict": OrderedDict(expected)}, path)
    theirs = torch.load(path, weights_only=True)["state_dict"]
    got = read_pickle(path)["state_dict"]
    assert list(got) == list(theirs)
    for name, value in theirs.items():
        assert got[name].dtype == value.dtype, name
        assert got[name].shape == value.shape, name
        assert torch.equal(got[name], value), name
    assert read_container(path).content["state_dict"]["turned"].nbytes == 144


@pytest.mark.parametrize("beside", [True, False])
def test_long_text_that_is_no_text(tmp_path: Path, beside: bool) -> None:
    """A long text stays in the file until it is used; it may be damaged."""
    path = tmp_path / "a.pkl"
    whole = {"model": {"w": np.zeros(1)}} if beside else {"w": np.zeros(1)}
    content = pickle.dumps({**whole, "text": "x" * 70_000}, protocol=4)
    path.write_bytes(content.replace(b"xxxx", b"xx\xff\xff", 1))
    with pytest.raises(ValueError, match=r"a\.pkl is truncated or damaged \(a text is not UTF-8"):
        find_weights(path)


def test_numbers_that_pytorch_lacks_are_named(tmp_path: Path) -> None:
    if np.dtype(np.longdouble).itemsize != 16:
        pytest.skip("this machine has no numbers of 16 bytes")
    np.savez(tmp_path / "a.npz", w=np.ones(2, np.longdouble))
    with pytest.raises(ValueError, match=r"a\.npz: w has numbers of a type that PyTorch lacks"):
        find_weights(tmp_path / "a.npz").state["w"]
