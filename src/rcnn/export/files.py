"""Writes a traced detector as an ONNX, torch.export or OpenVINO file, with its record."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.export import ExportedProgram

from rcnn.runtime.checksum import seal
from rcnn.runtime.memory import is_out_of_memory
from rcnn.runtime.packages import import_package, without_telemetry
from rcnn.runtime.record import KEY, ExportRecord, Target

OPSET = 18
PACKAGES: dict[Target, tuple[str, ...]] = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("onnx", "onnxscript", "openvino"),
    "torch": (),
}
LAYERS = ("Convolution", "ConvolutionBackpropData", "GroupConvolution", "MatMul")  # of OpenVINO
ONNX_BYTES = 2_000_000_000  # limit of one ONNX file (protobuf)


def require_packages(target: Target, *, runs_onnx: bool = False) -> None:
    """Raise ImportError, with the pip command, if a package that writes or checks the file is missing.

    `runs_onnx`: the export also runs an intermediate ONNX file.
    """
    try:
        for package in (*PACKAGES[target], *(["onnxruntime"] if runs_onnx else [])):
            import_package(package)
    except ImportError as error:
        raise ImportError(f"exporting to {target} needs {error.name}: pip install 'rcnn[{target}]'") from error


def write_file(program: ExportedProgram, record: ExportRecord, path: Path) -> None:
    """Write the file `path` (OpenVINO: also .bin beside it). Raises ValueError if an operator has no translation."""
    if record.target == "torch":
        content = io.BytesIO()  # torch's own writer of files ends the process if the disk is full
        with _quiet():
            torch.export.save(program, content, extra_files={f"{KEY}.json": record.text()})
        path.write_bytes(content.getbuffer())
    elif record.target == "onnx":
        write_onnx(program, record, path)
    else:
        write_openvino(program, record, path)


def write_onnx(program: ExportedProgram, record: ExportRecord, path: Path) -> None:
    """Write the program as one ONNX file of standard operators. Raises ValueError if it cannot be translated."""
    try:
        converted = translate(program, record.inputs, record.outputs)
    except Exception as error:  # of torch.onnx: many kinds
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{record.config.name} cannot be translated to ONNX: {_cause(error)}") from error
    drop_metadata(converted.model)
    converted.model.metadata_props[KEY] = record.text()
    size = sum(value.const_value.nbytes for value in converted.model.graph.initializers.values())
    if size > ONNX_BYTES:
        smaller = record.target == "onnx" and record.precision == "float32"  # the others are made from such a file
        raise ValueError(
            f"{record.config.name} has {size / 1e9:.1f} GB of weights; one ONNX file has at most 2 GB. Use "
            f"{'--precision float16, or ' if smaller else ''}--to torch"
        )
    converted.save(path, external_data=False)
    seal(path)


def drop_metadata(model: Any) -> None:
    """Remove torch's notes at each node, a tenth of a small file: they name the source files of this machine."""
    from onnxscript import ir

    for graph in (model.graph, *model.functions.values()):
        for node in ir.traversal.RecursiveGraphIterator(graph):
            node.metadata_props.clear()


def translate(program: ExportedProgram, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The ONNX program, with the names of its inputs and outputs; rcnn's ops become standard operators."""
    from rcnn.export.operators.table import TRANSLATIONS

    table = cast("Any", TRANSLATIONS)  # its type in torch has no operators
    with _quiet(), _without_slow_rules():
        return torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, verbose=False, custom_translation_table=table,
            input_names=list(inputs), output_names=list(outputs),
        )  # fmt: skip


def write_openvino(program: ExportedProgram, record: ExportRecord, path: Path) -> None:
    """Write the program as OpenVINO files, through ONNX: PATH (.xml) and .bin beside it."""
    onnx_file = path.with_suffix(".onnx")
    write_onnx(program, record, onnx_file)
    try:
        convert_to_openvino(onnx_file, record, path)
    finally:
        onnx_file.unlink()


def store(onnx_file: Path, record: ExportRecord, path: Path) -> None:
    """Write an ONNX file as the file `path` of the record's target, with the record inside."""
    if record.target == "openvino":
        convert_to_openvino(onnx_file, record, path)
        return
    import onnx

    model: Any = onnx.load(str(onnx_file))
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: record.text()})
    onnx.save(model, str(path))
    seal(path)


def convert_to_openvino(onnx_file: Path, record: ExportRecord, path: Path) -> None:
    """Write an ONNX file as OpenVINO files: PATH (.xml) and .bin beside it."""
    openvino = import_package("openvino")
    try:
        with without_telemetry():
            model: Any = openvino.convert_model(str(onnx_file))
    except Exception as error:  # its errors have no common class
        if is_out_of_memory(error):
            raise
        raise ValueError(f"{record.config.name} cannot be converted by OpenVINO: {_cause(error)}") from error
    for output, name in zip(model.outputs, record.outputs, strict=True):
        output.get_tensor().set_names({name})
    model.set_rt_info(record.text(), [KEY])
    if record.precision == "float16":
        halve_weights(model)
    try:
        openvino.save_model(model, str(path), compress_to_fp16=False)
    except RuntimeError as error:  # of a stream, without a reason
        raise OSError(f"OpenVINO cannot write {path.name} ({_cause(error)}): is the disk full?") from error
    seal(path)


def halve_weights(model: Any) -> None:
    """Store the weights of convolutions and linear layers of an OpenVINO model in float16.

    OpenVINO's own `compress_to_fp16` leaves all that sizes depend on in float32: here almost the whole network, because
    the number of candidates for NMS depends on the boxes.
    """
    openvino, opset13 = import_package("openvino"), import_package("openvino.opset13")

    for node in model.get_ops():
        if node.get_type_name() != "Constant" or node.get_element_type() != openvino.Type.f32:
            continue
        output = node.output(0)
        if any(target.get_node().get_type_name() in LAYERS for target in output.get_target_inputs()):
            values = node.data.astype(np.float16)
            if np.isfinite(values).all():  # else some are above 65,504, the largest number of float16
                half = opset13.constant(values, openvino.Type.f16)
                output.replace(opset13.convert(half, "f32").output(0))


def _cause(error: BaseException) -> str:
    """The first line of the innermost error."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextlib.contextmanager
def _without_slow_rules() -> Iterator[None]:
    """Within the block, the optimizer of torch.onnx does not look for two slices that are one split.

    For that it lists all nodes of the graph again for each node: the time grows with the square of their number.
    """
    from onnxscript import rewriter

    rules = getattr(rewriter, "_DEFAULT_REWRITE_RULES", None)
    if rules is None:  # another version: slower, but right
        yield
        return
    rewriter._DEFAULT_REWRITE_RULES = tuple(rule for rule in rules if rule.name != "SlicesSplit")
    try:
        yield
    finally:
        rewriter._DEFAULT_REWRITE_RULES = rules


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within the block, hide the progress and warnings of torch.onnx, which are about its own code."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
