"""What a file of weights is, told by what is in it and never by what it is called, and how it is opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.weights.readers import hdf5, mxnet_params, npz, pickles, torch_files, zips
from rcnn.weights.readers.stored import Damaged, ForeignName, Refused

HEAD = 512  # bytes that tell
MXNET_MAGIC = (0x112).to_bytes(8, "little")  # of a list of arrays
COPY = "copy it again, or download it again"
# what a file that begins so is, and what to do
OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the weights: git lfs pull"),
    (b"\x1f\x8b", "is packed by gzip: unpack it (gunzip, or tar xzf), and convert what is in it"),
    (b"BZh", "is packed by bzip2: unpack it, and convert what is in it"),
    (b"\xfd7zXZ", "is packed by xz: unpack it, and convert what is in it"),
    (b"\x28\xb5\x2f\xfd", "is packed by zstd: unpack it, and convert what is in it"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it, and convert what is in it"),
    (b"Rar!", "is a RAR archive: unpack it, and convert what is in it"),
    (b"%PDF", "is a PDF"),
    (b"\xff\xd8\xff", "is a photo"),
    (b"\x89PNG", "is a picture"),
    (b"\x7fELF", "is a program"),
    (b"\x1cTFL", "is a TensorFlow Lite model: its weights are packed; convert the checkpoint that it was made from"),
    (
        npz.MAGIC,
        "is one array of numpy (.npy): tensorpack's old files hold a pickled dict in one; where you trust it, "
        "np.savez('weights.npz', **np.load(FILE, allow_pickle=True).item()), and convert that",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Container:
    """An opened file. `content` is as nested as the file has it; every array in it is a Stored."""

    kind: str  # what kind of file, for people
    content: Any
    size: int  # bytes


def read_container(path: str | Path) -> Container:
    """Open file `path`; nothing in it is run, and its arrays stay in it until they are read.

    Raises FileNotFoundError, ImportError (an HDF5 file without h5py), or a ValueError that names the file, what it is
    or what is wrong with it, and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: want a file of weights")
    if path.is_dir():
        raise ValueError(_folder(path))
    if not path.is_file():  # a pipe or a device: reading might never end
        raise ValueError(f"{path} is no ordinary file (a pipe, a device?): want a file of weights")
    with path.open("rb") as file:
        head = file.read(HEAD)
    try:
        kind, content = _open(path, head)
    except ForeignName as error:
        raise ValueError(
            f"{path} asks for {error}, which is neither array nor tensor: refused, and nothing of it was run. "
            "If you trust its author, save its weights alone again where it was made"
        ) from error
    except Refused as error:
        raise ValueError(f"{path} holds {error}: refused, and nothing of it was run") from error
    except (Damaged, EOFError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): {COPY}") from error
    return Container(kind=kind, content=content, size=path.stat().st_size)


def _open(path: Path, head: bytes) -> tuple[str, Any]:
    if not head:
        raise ValueError(f"{path} is empty: {COPY}")
    if head.startswith(zips.EMPTY):
        raise ValueError(f"{path} is an empty zip file: {COPY}")
    if head.startswith(zips.MAGIC):
        return ("npz", npz.read_npz(path)) if _is_npz(path) else ("torch.save", torch_files.read_zip(path))
    for begins, kind, read in _FORMATS:
        if head.startswith(begins):
            return kind, read(path)
    for begins, problem in OTHERS:
        if head.startswith(begins):
            raise ValueError(f"{path} {problem}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive: unpack it, and convert what is in it")
    if head[8:9] == b"{" and head[7:8] == b"\0":
        return "safetensors", torch_files.read_safetensors(path)
    if pickles.is_pickle(head):
        return "pickle", pickles.read_pickle_file(path)
    raise ValueError(f"{path} {_problem(path, head)}")


def _is_npz(path: Path) -> bool:
    return npz.is_npz(zips.zip_members(path))


_FORMATS: tuple[tuple[bytes, str, Callable[[Path], Any]], ...] = (
    (torch_files.LEGACY_MAGIC, "torch.save, before 1.6", torch_files.read_legacy),
    (hdf5.MAGIC, "HDF5", hdf5.read_hdf5),
    (MXNET_MAGIC, "MXNet parameters", mxnet_params.read_params),
)


def _problem(path: Path, head: bytes) -> str:
    """What a file that none of our readers takes seems to be, in words."""
    text = head.lstrip()
    if text.startswith(b"<"):
        return "is a web page, not weights: the download went wrong, try again"
    if text.startswith((b"{", b"[")):
        return "is text, not weights: want the file that holds the numbers"
    if b"model_checkpoint_path" in head:
        return "only names the newest checkpoint of TensorFlow's, which are not read here; see docs/checkpoints.md"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        tail = file.read()
    if tail == bytes.fromhex("57fb808b247547db"):
        return "is the index of a TensorFlow checkpoint: save its variables by name with np.savez, and convert that"
    if head.startswith(b"\x08") and (b"onnx" in head or b"pytorch" in head or b"main_graph" in head):
        return "is an ONNX model: its names are lost; convert the checkpoint that it was made from"
    if head.startswith(b"\x0a"):
        return "is a protocol buffer (TensorFlow's .pb, Caffe's .caffemodel?): convert the checkpoint it was made from"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "is text, not weights: want the file that holds the numbers"
    return "is no file of weights that we know: want .pkl, .pth, .npz, .params, .h5 or .safetensors of a known system"


def _folder(path: Path) -> str:
    """Why the folder `path` cannot be converted, and what to do."""
    names = {entry.name for entry in list(path.iterdir())[:1000]}
    if "model.safetensors" in names and "config.json" in names:
        return f"{path} is a checkpoint of ours (or Hugging Face's): `rcnn predict {path} IMAGES` takes it as it is"
    if "saved_model.pb" in names or any(".data-0000" in name for name in names):
        return (
            f"{path} is a folder of TensorFlow's: save the variables by name with np.savez, and convert that file "
            "(docs/checkpoints.md)"
        )
    if "last_checkpoint" in names:
        return f"{path} is a folder of Detectron2's or MMDetection's: want one of the files in it"
    return f"{path} is a folder: want a file of weights"
