"""The layers of an ONNX file in int8, with onnxruntime's static quantizer (QDQ operators, which OpenVINO reads too).

    quantizer = Quantizer(Path("float.onnx"), inputs)           # runs the file on the inputs to find the ranges
    quantizer.write(Path("int8.onnx"), float_layers=quantizer.layers[:1])

Weights are symmetric int8, one scale per channel; feature maps are uint8, one scale and zero point each. The range of a
feature map is from the mean minimum to the mean maximum of the images: with D2Go's Mask R-CNN, detections are then
nearer to those in float than with the range of all images, or with NNCF (docs/results.md).
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt

from rcnn.runtime.checksum import seal

Inputs = dict[str, npt.NDArray[Any]]
LAYERS = ("Conv", "Gemm", "MatMul")  # operators with int8 kernels in onnxruntime; they contain most of the FLOPs


class Quantizer:
    """A float file with the ranges of its feature maps; writes int8 files."""

    def __init__(self, path: Path, inputs: Iterable[Inputs]) -> None:
        """Run the file `path` on `inputs`, which are read once, to find the ranges."""
        from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator
        from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

        self._model: Any = load_model_with_shape_infer(path)
        weights = {one.name for one in self._model.graph.initializer}
        self.layers = tuple(
            node.name for node in self._model.graph.node if node.op_type in LAYERS and weights & set(node.input[:2])
        )
        with tempfile.TemporaryDirectory(prefix="rcnn-calibration-") as folder:
            calibrator = create_calibrator(
                path, LAYERS, augmented_model_path=str(Path(folder) / "ranges.onnx"),
                calibrate_method=CalibrationMethod.MinMax, extra_options={"moving_average": True},
            )  # fmt: skip
            calibrator.collect_data(_Reader(iter(inputs)))
            self._ranges: Any = calibrator.compute_data()

    def write(self, path: Path, float_layers: Collection[str] = ()) -> None:
        """Write the file with all layers in int8, except `float_layers`."""
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        layers = [name for name in self.layers if name not in float_layers]
        quantizer: Any = QDQQuantizer(
            copy.deepcopy(self._model), per_channel=True, reduce_range=False, weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8, tensors_range=self._ranges, nodes_to_quantize=layers,
            nodes_to_exclude=[], op_types_to_quantize=list(LAYERS), extra_options={},
        )  # fmt: skip
        disabled = logging.root.manager.disable
        logging.disable(logging.WARNING)  # advice about its own options
        try:
            quantizer.quantize_model()
        finally:
            logging.disable(disabled)
        quantizer.model.save_model_to_file(str(path), use_external_data_format=False)
        seal(path)  # its record is that of the float file


class _Reader:
    """The inputs in the form that onnxruntime's calibrators take."""

    def __init__(self, inputs: Iterator[Inputs]) -> None:
        self._inputs = inputs

    def get_next(self) -> Inputs | None:
        return next(self._inputs, None)
