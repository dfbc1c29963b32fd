"""Finds the format of a weight file from its content, never from its name, and opens it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rcnn.commands import as_typed
from rcnn.text_files import as_given, missing_text
from rcnn.weights.readers import hdf5, mxnet_params, npz, pickles, torch_files, zips
from rcnn.weights.readers.stored import Damaged, ForeignName, Refused, file_bytes

HEAD = 512  # first bytes, which identify the format
MXNET_MAGIC = (0x112).to_bytes(8, "little")  # first bytes of an array list
COPY = "copy or download it again"
# formats that are not read, by their first bytes, and what to do
OTHERS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights: run git lfs pull"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it (gunzip or tar xzf) and convert the file inside"),
    (b"BZh", "is compressed with bzip2: unpack it and convert the file inside"),
    (b"\xfd7zXZ", "is compressed with xz: unpack it and convert the file inside"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it and convert the file inside"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it and convert the file inside"),
    (b"Rar!", "is a RAR archive: unpack it and convert the file inside"),
    (b"%PDF", "is a PDF; expected a weight file"),
    (b"\xff\xd8\xff", "is a JPEG image; expected a weight file"),
    (b"\x89PNG", "is a PNG image; expected a weight file"),
    (b"\x7fELF", "is an executable program; expected a weight file"),
    (b"\x1cTFL", "is a TensorFlow Lite model: convert the checkpoint that it was exported from"),
    (
        npz.MAGIC,
        "is a single numpy array (.npy). Old tensorpack files hold a pickled dict in it: if you trust the file, run "
        "np.savez('weights.npz', **np.load(FILE, allow_pickle=True).item()) and convert weights.npz",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Container:
    """An opened file. `content` is nested like the file; every array in it is a Stored."""

    kind: str  # the format, for messages
    content: Any
    size: int  # bytes


def read_container(path: str | Path) -> Container:
    """Open file `path`; nothing in it is run, and its arrays stay in the file until they are read.

    Raises FileNotFoundError, ImportError (an HDF5 file without h5py), or a ValueError that names the file, says what
    is wrong with it and what to do.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{as_given(path)} {missing_text(path)}; expected a weight file")
    if path.is_dir():
        raise ValueError(_folder(path))
    if not path.is_file():  # reading a pipe or a device may never end
        raise ValueError(f"{path} is not a regular file (a pipe or a device?); expected a weight file")
    head = file_bytes(path, 0, HEAD)
    try:
        kind, content = _open(path, head)
    except ForeignName as error:
        raise ValueError(
            f"{path} asks for {error}, which is neither array nor tensor: refused, and no code of it was run. "
            "If you trust its author, load it where it was made and save only its state_dict"
        ) from error
    except Refused as error:
        raise ValueError(f"{path} was refused, and no code of it was run: it contains {error}") from error
    except (Damaged, EOFError) as error:
        raise ValueError(f"{path} is truncated or damaged ({error}): {COPY}") from error
    return Container(kind=kind, content=content, size=path.stat().st_size)


def _open(path: Path, head: bytes) -> tuple[str, Any]:
    if not head:
        raise ValueError(f"{path} is empty: {COPY}")
    if head.startswith(zips.EMPTY):
        raise ValueError(f"{path} is an empty zip file: {COPY}")
    if head.startswith(zips.MAGIC):
        is_npz = npz.is_npz(zips.zip_members(path))
        return ("npz", npz.read_npz(path)) if is_npz else ("torch.save", torch_files.read_zip(path))
    for begins, kind, read in _FORMATS:
        if head.startswith(begins):
            return kind, read(path)
    for begins, problem in OTHERS:
        if head.startswith(begins):
            raise ValueError(f"{path} {problem}")
    if head[257:262] == b"ustar":
        raise ValueError(f"{path} is a tar archive: unpack it and convert the file inside")
    if head[8:9] == b"{" and head[7:8] == b"\0":
        return "safetensors", torch_files.read_safetensors(path)
    if head.startswith(pickles.FIRST):
        return "pickle", pickles.read_pickle_file(path)
    raise ValueError(f"{path} {_problem(path, head)}")


_FORMATS: tuple[tuple[bytes, str, Callable[[Path], Any]], ...] = (
    (torch_files.LEGACY_MAGIC, "torch.save, before 1.6", torch_files.read_legacy),
    (hdf5.MAGIC, "HDF5", hdf5.read_hdf5),
    (MXNET_MAGIC, "MXNet parameters", mxnet_params.read_params),
)


def _problem(path: Path, head: bytes) -> str:
    """What a file that no reader accepts seems to be, as part of a message."""
    text = head.lstrip()
    if text.startswith(b"<"):
        return "is a web page, not weights: the download failed, try again"
    if text.startswith((b"{", b"[")):
        return "is a text file; expected a binary weight file"
    if b"model_checkpoint_path" in head:
        return (
            "only names the newest TensorFlow checkpoint; TensorFlow checkpoints are not read, see docs/checkpoints.md"
        )
    if file_bytes(path, max(0, path.stat().st_size - 8), 8) == bytes.fromhex("57fb808b247547db"):
        return "is the index of a TensorFlow checkpoint: save its variables by name with np.savez and convert that file"
    if head.startswith(b"\x08") and (b"onnx" in head or b"pytorch" in head or b"main_graph" in head):
        return "is an ONNX model, which has lost the tensor names: convert the checkpoint that it was exported from"
    if head.startswith(b"\x0a"):
        return "looks like a protocol buffer (TensorFlow .pb, Caffe .caffemodel): convert the checkpoint it came from"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in head):
        return "is a text file; expected a binary weight file"
    return "has an unknown format; expected .pkl, .pth, .npz, .params, .h5 or .safetensors of a known system"


def _folder(path: Path) -> str:
    """Why folder `path` cannot be converted, and what to do."""
    names = {entry.name for entry in list(path.iterdir())[:1000]}
    if "model.safetensors" in names and "config.json" in names:
        command = as_typed("rcnn", "predict", path, "IMAGES")
        return f"{path} is an rcnn checkpoint (or a Hugging Face one): use it directly, `{command}`"
    if "saved_model.pb" in names or any(".data-0000" in name for name in names):
        return (
            f"{path} is a TensorFlow checkpoint folder: save the variables by name with np.savez and convert that file "
            "(docs/checkpoints.md)"
        )
    if "last_checkpoint" in names:
        return f"{path} is a training folder of Detectron2 or MMDetection; expected one of the weight files in it"
    return f"{path} is a folder; expected a weight file"
