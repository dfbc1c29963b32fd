"""HDF5 files with external links, false claims about their contents, or Python objects."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rcnn.weights.readers.state_dict import find_weights

h5py = pytest.importorskip("h5py", reason="needs rcnn[hdf5]")


def external_link(file: Any, other: Path) -> None:
    file["w"] = h5py.ExternalLink(str(other), "secret")


def soft_link(file: Any, other: Path) -> None:
    file["w"] = h5py.SoftLink("/nowhere")


def external_storage(file: Any, other: Path) -> None:
    file.create_dataset("w", (4,), dtype="u1", external=[(str(other), 0, 4)])


def virtual(file: Any, other: Path) -> None:
    layout = h5py.VirtualLayout(shape=(4,), dtype="f4")
    layout[:] = h5py.VirtualSource(str(other), "secret", shape=(4,))
    file.create_virtual_dataset("w", layout)


def objects(file: Any, other: Path) -> None:
    file.create_dataset("w", data=np.array(["a", "bc"], dtype=object), dtype=h5py.string_dtype())


def giant(file: Any, other: Path) -> None:
    file.create_dataset("w", (1 << 20, 1 << 20), dtype="f4", chunks=(64, 64), compression="gzip")


def impossible(file: Any, other: Path) -> None:
    file.create_dataset("w", (1 << 30, 1 << 30), dtype="f4", chunks=(64, 64))


def loop(file: Any, other: Path) -> None:
    file.create_group("a")["again"] = file["/"]


def deep(file: Any, other: Path) -> None:
    group = file
    for _ in range(40):
        group = group.create_group("g")
    group["w"] = np.zeros(2)


def records(file: Any, other: Path) -> None:
    file["w"] = np.zeros(2, dtype="i4,f4")


def twice(file: Any, other: Path) -> None:
    file.create_group("a")["w"] = np.zeros(2)
    file["b"] = file["a"]


CASES: dict[Callable[[Any, Path], None], str] = {
    external_link: "w, a link|, a link",
    soft_link: "w, a link|, a link",
    external_storage: "stores its values in another file",
    virtual: "stores its values in another file",
    objects: "not an array of numbers",
    giant: "a bomb",
    impossible: "not possible for weights",
    loop: "contains itself or has two parents",
    deep: "deep",
    records: "expected numbers or text",
    twice: "has two parents",
}


@pytest.mark.parametrize("write", CASES)
def test_what_no_weights_have_is_refused(tmp_path: Path, write: Callable[[Any, Path], None]) -> None:
    path, other = tmp_path / "weights.h5", tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["secret"] = np.arange(4, dtype=np.float32)
    with h5py.File(path, "w") as file:
        write(file, other)
    with pytest.raises(ValueError, match=CASES[write]) as caught:
        find_weights(path)
    assert str(path) in str(caught.value)


def test_a_pickle_in_an_attribute_is_never_read(tmp_path: Path) -> None:
    path, trace = tmp_path / "weights.h5", tmp_path / "ran"
    payload = f"cos\nsystem\n(S'touch {trace}'\ntR.".encode()
    with h5py.File(path, "w") as file:
        file["w"] = np.ones(3, dtype=np.float32)
        file.attrs["training_config"] = np.void(payload)
        file["blob"] = np.frombuffer(payload, dtype=np.uint8)
    found = find_weights(path)
    assert found.state["w"].tolist() == [1, 1, 1]
    assert bytes(found.state["blob"].numpy()) == payload
    assert not trace.exists()
    pickle.loads(payload)  # noqa: S301  (it is a real one)
    assert trace.exists()


def test_a_single_number_is_no_list_of_one(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["step"], file["w"] = 7, np.ones((2, 3), np.float32)
    found = find_weights(tmp_path / "a.h5").state
    assert (found["step"].shape, found["step"].item(), found["w"].shape) == ((), 7, (2, 3))
