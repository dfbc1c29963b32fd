"""Runs exported files: ONNX with onnxruntime, OpenVINO, and torch.export programs, behind one class.

    model = open_exported(Path("balloons.onnx"), torch.device("cpu"))
    detections = model.predict(images)          # as Detector.predict: ImageBatch -> Detections

Letters: B images, H x W padded size.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rcnn.data.messages import counted
from rcnn.preprocess import build_preprocessor
from rcnn.runtime.checksum import is_changed
from rcnn.runtime.memory import is_out_of_memory
from rcnn.runtime.packages import import_package
from rcnn.runtime.record import EXPORT_AGAIN, KEY, SUFFIXES, ExportRecord, read_record, require_graph
from rcnn.runtime.torch_program import read_program, sizes_parsed_once
from rcnn.structures import Detections, ImageBatch
from rcnn.weights.readers.stored import Refused

Arrays = Mapping[str, npt.NDArray[Any]]
Run = Callable[[dict[str, npt.NDArray[Any]]], Sequence[npt.NDArray[Any]]]  # inputs by name -> outputs in order


def is_exported(path: object) -> bool:
    """Whether `path` is the name of an existing file with the suffix of an exported model."""
    return isinstance(path, str | Path) and Path(path).suffix in SUFFIXES.values() and Path(path).is_file()


class ExportedModel:
    """An exported file that is ready to run; `predict` has the arguments and results of `Detector.predict`."""

    def __init__(self, record: ExportRecord, run: Run, path: Path) -> None:
        self.record, self.run, self.path = record, run, path
        self.warns = False  # if its detections can differ from those of the checkpoint, because of its size

    def predict(self, images: ImageBatch) -> Detections:
        """Detections (B, D) in pixels of the network input, best first.

        Raises ValueError if the images do not fit into the size that the file was exported for.
        """
        if self.record.with_resize:
            parts = [self._whole(images, index) for index in range(len(images.sizes))]
            return Detections(**{name: torch.cat([part[name] for part in parts]) for name in self.record.outputs})
        images = self._padded(images)
        most = self.record.batch or len(images.sizes)
        parts = [self._run(_rows(images, start, most)) for start in range(0, len(images.sizes), most)]
        joined = {name: torch.cat([part[name] for part in parts])[: len(images.sizes)] for name in self.record.outputs}
        return Detections(**joined)

    def _whole(self, images: ImageBatch, index: int) -> dict[str, Tensor]:
        """The outputs for one image without its padding, for a file that resizes."""
        height, width = images.sizes[index].tolist()
        pixels = np.ascontiguousarray(images.pixels[index : index + 1, :, :height, :width].cpu().numpy())
        outputs = zip(self.record.outputs, self.run({"image": pixels}), strict=True)
        return {name: torch.from_numpy(np.array(value)) for name, value in outputs}

    def _padded(self, images: ImageBatch) -> ImageBatch:
        """The images padded to the size of the file."""
        height, width = images.pixels.shape[2:]
        size = self.record.size or tuple(map(max, self.record.least_size, (height, width)))
        if height > size[0] or width > size[1]:
            raise ValueError(
                f"the images are {height}x{width} (height x width), but {self.path} takes {size[0]}x{size[1]}: "
                "export with --size dynamic"
            )
        if self.record.size is None and (height, width) != size:
            least = " x ".join(map(str, self.record.least_size))
            warnings.warn(
                f"{self.path} takes images from {least} pixels on (height x width). Smaller ones are padded to that, "
                "so that their detections differ from those of the checkpoint",
                stacklevel=2,
            )
        if self.warns and self._is_fitted(images):
            self.warns = False
            warnings.warn(
                f"{self.path} takes images of {size[0]}x{size[1]} pixels (height x width) only. Others are padded to "
                "that or made smaller, so that their detections can differ from those of the checkpoint; a file of any "
                "size (--size dynamic) has no such difference",
                stacklevel=2,
            )
        pixels = F.pad(images.pixels, (0, size[1] - width, 0, size[0] - height))
        return ImageBatch(
            pixels=pixels.float() if self.record.float_images else pixels,
            sizes=images.sizes,
            scales=images.scales_or_one,
            originals=images.file_sizes,
        )

    def _is_fitted(self, images: ImageBatch) -> bool:
        """Whether the checkpoint would pad the images less, or resize them to another size."""
        config = self.record.config.input
        if self.record.size is None or config.canvas:
            return False
        whole = build_preprocessor(config)
        frames = [whole.frame((height, width)).size for height, width in images.file_sizes.tolist()]
        return tuple(images.pixels.shape[2:]) != self.record.size or frames != list(map(tuple, images.sizes.tolist()))

    def _run(self, images: ImageBatch) -> dict[str, Tensor]:
        """The outputs for a batch. If the file takes a larger batch, it is filled with copies of the last image."""
        outputs = zip(self.record.outputs, self.run(self._inputs(images)), strict=True)
        return {name: torch.from_numpy(np.array(value))[: len(images.sizes)] for name, value in outputs}

    def inputs(self, images: ImageBatch) -> dict[str, npt.NDArray[Any]]:
        """The input arrays of the file for a batch of images that fits into one run; errors as in `predict`."""
        return self._inputs(self._padded(images))

    def _inputs(self, images: ImageBatch) -> dict[str, npt.NDArray[Any]]:
        count = len(images.sizes)
        filled = torch.arange(self.record.batch or count).clamp(max=count - 1)
        names = {"images": "pixels"}  # the others have the names of the fields
        return {
            name: np.ascontiguousarray(getattr(images, names.get(name, name))[filled].cpu().numpy())
            for name in self.record.inputs
        }


def _rows(images: ImageBatch, start: int, count: int) -> ImageBatch:
    """Images `start` to `start + count` of a batch."""
    rows = slice(start, start + count)
    return ImageBatch(
        pixels=images.pixels[rows],
        sizes=images.sizes[rows],
        scales=images.scales_or_one[rows],
        originals=images.file_sizes[rows],
    )


def exported_record(path: str | Path) -> ExportRecord:
    """The record in an exported file, without preparing the file to run.

    Raises ImportError if the package that reads the file is missing, ValueError if the file cannot be read.
    """
    path = Path(path)
    if path.suffix == SUFFIXES["onnx"]:
        return _onnx_session(path, torch.device("cpu"), optimize=False)[0]
    if path.suffix == SUFFIXES["torch"]:
        return read_record(_checked_program(path)[0], path)
    return _openvino_model(path)[0]


def open_exported(path: str | Path, device: torch.device) -> ExportedModel:
    """The exported file `path`, ready to run on `device`; errors as in `exported_record`."""
    path = Path(path)
    if path.suffix == SUFFIXES["onnx"]:
        record, run = _onnx_session(path, device)
    elif path.suffix == SUFFIXES["torch"]:
        record, run = _torch_program(path, device)
    else:
        record, run = _openvino_model(path, device)
    if path.suffix != SUFFIXES["torch"] and is_changed(path):  # torch.export's files have checksums of their own
        warnings.warn(
            f"{path} has changed since rcnn wrote it: its checksum differs. Unless another program edited it on "
            f"purpose, copy it again, or {EXPORT_AGAIN}",
            stacklevel=2,
        )
    if len(record.classes) != record.config.num_classes:
        raise ValueError(
            f"{path} has {counted(len(record.classes), 'class name')} for {record.config.num_classes} classes: "
            f"{EXPORT_AGAIN}"
        )
    return ExportedModel(record, run, path)


def _onnx_session(path: Path, device: torch.device, *, optimize: bool = True) -> tuple[ExportRecord, Run]:
    """An ONNX file in onnxruntime, on the CPU or with its CUDA provider."""
    try:
        onnxruntime = import_package("onnxruntime")
    except ImportError as error:
        raise ImportError(f"{path} needs onnxruntime: pip install 'rcnn[onnx]'") from error
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}.get(device.type, "")
    if provider not in onnxruntime.get_available_providers():
        raise ValueError(f"{path}: onnxruntime cannot use {device} here; use cpu, or install onnxruntime-gpu")
    place: dict[str, int] = {} if device.index is None or device.type == "cpu" else {"device_id": device.index}
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            str(path),
            options,
            providers=[(provider, place)],
            enable_fallback=0,  # which prints a banner
        )
    except Exception as error:  # its errors have no common class
        _require_memory(error, path)
        raise ValueError(
            f"{path} cannot be read as ONNX ({_first_line(error)}): copy it again, or {EXPORT_AGAIN}"
        ) from error
    record = read_record(session.get_modelmeta().custom_metadata_map.get(KEY), path)
    shapes = {one.name: [side if isinstance(side, int) else None for side in one.shape] for one in session.get_inputs()}
    require_graph(record, path, shapes, [one.name for one in session.get_outputs()])
    return record, lambda inputs: session.run(list(record.outputs), inputs)


def _torch_program(path: Path, device: torch.device) -> tuple[ExportRecord, Run]:
    """A torch.export program."""
    import rcnn.models.detector  # noqa: F401  (the ops that the program calls)

    text, checked = _checked_program(path)
    record = read_record(text, path)
    if device.type != "cpu":
        raise ValueError(f"{path} was exported for the CPU; use --device cpu, or the checkpoint on {device}")
    try:
        with sizes_parsed_once():
            program = torch.export.load(checked)
            module, signature = program.module(), program.graph_signature
            shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.op == "placeholder"}
    except Exception as error:  # many kinds, depending on the damage
        _require_memory(error, path)
        raise _unreadable_program(path, error) from error
    inputs = [[side if isinstance(side, int) else None for side in shapes[name]] for name in signature.user_inputs]
    outputs = dict(_named(record.outputs, list(signature.user_outputs)))
    require_graph(record, path, dict(_named(record.inputs, inputs)), outputs)

    def run(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        with torch.no_grad():
            found = module(*(torch.from_numpy(inputs[name]) for name in record.inputs))
        return [value.numpy() for value in found]

    return record, run


def _named(names: Sequence[str], values: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Each value with its name; those of a torch.export program have only an order. More values are numbered."""
    return ((names[index] if index < len(names) else str(index), value) for index, value in enumerate(values))


def _checked_program(path: Path) -> tuple[str, BytesIO]:
    """`read_program` with errors for the user."""
    try:
        return read_program(path)
    except Refused as error:
        raise ValueError(
            f"{path} contains {error}. Such a file could run code, so rcnn does not open it: {EXPORT_AGAIN}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise _unreadable_program(path, error) from error


def _unreadable_program(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"{path} cannot be read as a torch.export program ({_first_line(error)}): copy it again, or {EXPORT_AGAIN}"
    )


def _openvino_model(path: Path, device: torch.device | None = None) -> tuple[ExportRecord, Run]:
    """An OpenVINO file (.xml, with .bin beside it) on the CPU."""
    try:
        openvino = import_package("openvino")
    except ImportError as error:
        raise ImportError(f"{path} needs OpenVINO: pip install 'rcnn[openvino]'") from error
    if device is not None and device.type != "cpu":
        raise ValueError(f"{path}: OpenVINO files run on the CPU here; use --device cpu")
    weights, core = path.with_suffix(".bin"), openvino.Core()
    try:
        with open(path, "rb") as file:
            if b"<net" not in file.read(512):  # else OpenVINO tries the readers of other formats, which print
                raise ValueError("it does not begin with <net>")
        if not weights.is_file():
            raise ValueError(f"{weights} is missing")
        model = core.read_model(str(path))
        text = model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None
    except Exception as error:  # its errors have no common class
        _require_memory(error, path)
        raise ValueError(
            f"{path} cannot be read as OpenVINO ({_last_line(error)}): copy it and {weights.name} again, or "
            f"{EXPORT_AGAIN}"
        ) from error
    record = read_record(text, path)
    shapes = {
        one.any_name: [side.get_length() if side.is_static else None for side in one.partial_shape]
        for one in model.inputs
    }
    require_graph(record, path, shapes, [one.any_name for one in model.outputs if one.names])
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    compiled = core.compile_model(model, "CPU", settings) if device is not None else None

    def run(inputs: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        if compiled is None:
            raise ValueError(f"{path} was opened to read its description only")
        found = compiled(inputs)
        return [np.array(found[name]) for name in record.outputs]

    return record, run


def _require_memory(error: Exception, path: Path) -> None:
    """Raise MemoryError if `error` is about a lack of memory, which is no damage of the file."""
    if is_out_of_memory(error):
        raise MemoryError(f"{path} does not fit in memory: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """The first line of a message, shortened."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _last_line(error: Exception) -> str:
    """The last line of a message of OpenVINO, which has the reason, shortened; the others name its source files."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
