"""Runs an exported file once and compares its detections with those of PyTorch."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from rcnn.data.loading import pad_images
from rcnn.export.compare import Difference, compare
from rcnn.export.files import write_file
from rcnn.export.trace import example_inputs
from rcnn.models import Detector
from rcnn.models.heads.box import BoxHead
from rcnn.models.heads.fcis import FCISHead
from rcnn.models.rpn import RPN
from rcnn.preprocess import build_preprocessor
from rcnn.preprocess.whole import WholeImage
from rcnn.runtime.exported import open_exported
from rcnn.runtime.record import ExportRecord
from rcnn.structures import ImageBatch

COMPARISONS = (torch.ops.aten.gt.Scalar, torch.ops.aten.ge.Scalar)
LOWERED = "checking a temporary copy with a score threshold of 0"


def check_file(
    path: Path,
    detector: Detector,
    program: ExportedProgram,
    record: ExportRecord,
    say: Callable[[str], object],
    output: Path,
) -> Difference:
    """Compare the file `path` with `detector`, prepared for inference, on a generated batch.

    `program` and `record` are those that the file was written from, `output` is the file that messages name. If no
    detection matches, e.g. because there are none, a copy of the file with a score threshold of 0 is compared; the
    thresholds of `detector` and `program` are 0 afterwards. Warns if neither detects anything even then. Raises
    ValueError if no detection of the copy matches.
    """
    say("comparing the file with PyTorch on a generated batch")
    difference, how = difference_of(path, detector), ""
    if not difference.matched:
        say(f"{none_matched(difference)} on a generated batch: {LOWERED}")
        lower_thresholds(program, remove_thresholds(detector))
        difference, how = _difference_of_copy(path.name, detector, program, record), " with a score threshold of 0"
    if difference.is_empty:
        warnings.warn(
            f"{output} was not checked: neither it nor the model in PyTorch detects anything on a generated batch, "
            "even with a score threshold of 0",
            stacklevel=2,
        )
        return difference
    require_match(difference, output, "in PyTorch")
    say(f"checked on a generated batch{how}: {difference.text()}")
    return difference


def check_resize(path: Path, plain: Path) -> Difference:
    """Compare the file `path`, which resizes, with the file `plain` after the exact resize, on a generated image.

    The image has half the size of the network's input.
    """
    whole, network = open_exported(path, torch.device("cpu")), open_exported(plain, torch.device("cpu"))
    config = whole.record.config.input
    side = max(config.min_size // 2, 16)
    image = torch.randint(0, 256, (3, side, side), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    pixels, frame = build_preprocessor(config)(image)
    found = whole.predict(pad_images([image], 1, "exact", [WholeImage().frame((side, side))]))
    expected = network.predict(pad_images([pixels], config.divisor, "exact", [frame]))
    factors = torch.tensor(frame.to_original_scale)
    expected = replace(expected, boxes=(expected.boxes * factors.repeat(2)).clamp(0, side))
    if expected.keypoints is not None:
        factors = torch.cat([factors, torch.ones(1)])
        expected = replace(expected, keypoints=expected.keypoints * factors)
    return compare(expected, found)


def none_matched(difference: Difference) -> str:
    """Why there is nothing to compare, for messages."""
    return "nothing is detected" if difference.is_empty else "no detection matches"


def require_match(difference: Difference, output: Path, model: str) -> None:
    """Raise ValueError if there were detections and none of them matched the others; `model` names their model."""
    if difference.unmatched and not difference.matched:
        raise ValueError(
            f"{output} was not written: none of its detections on a generated image matches one of the model {model} "
            f"(same label, box within 1 px, score within .01; {difference.unmatched} compared). Expected at least one. "
            "Export with another --to, or with other versions of the packages that write and run the file"
        )


def difference_of(path: Path, detector: Detector, seed: int = 0) -> Difference:
    """Run the file on a generated batch and compare with `detector`, prepared for inference."""
    model = open_exported(path, torch.device("cpu"))
    images = images_of(example_inputs(model.record, seed=seed))
    return compare(detector.predict(images), model.predict(images))


def images_of(values: Mapping[str, Tensor]) -> ImageBatch:
    """The inputs of an exported file, by name, as a batch."""
    return ImageBatch(
        pixels=values["images"], sizes=values["sizes"], scales=values.get("scales"), originals=values.get("originals")
    )


def remove_thresholds(detector: Detector) -> set[float]:
    """Set the score thresholds of `detector` to 0, for detections and proposals; returns the thresholds before."""
    thresholds: set[float] = set()
    for module in detector.modules():
        if isinstance(module, BoxHead):
            thresholds.add(module.config.score_threshold)
            module.config = replace(module.config, score_threshold=0.0)
        elif isinstance(module, RPN):
            thresholds.add(module.config.proposals.score_threshold)
            proposals = replace(module.config.proposals, score_threshold=0.0)
            module.config = replace(module.config, proposals=proposals)
        elif isinstance(module, FCISHead):
            thresholds.add(module.config.score_threshold)
            module.config = replace(module.config, score_threshold=0.0)
    return thresholds


def lower_thresholds(program: ExportedProgram, thresholds: Collection[float]) -> None:
    """Set the score thresholds of a traced program to 0: comparisons with `thresholds` become comparisons with 0.

    This is fast; tracing the detector again would take as long as the export. If another comparison is changed by
    mistake, the detections differ from those of PyTorch.
    """
    for node in program.graph.nodes:
        if node.target in COMPARISONS and node.args[1] in thresholds:
            node.update_arg(1, 0.0)
    program.graph_module.recompile()


def _difference_of_copy(name: str, detector: Detector, program: ExportedProgram, record: ExportRecord) -> Difference:
    """The difference from `detector` of a temporary file called `name`, written from `program` in its current state."""
    with tempfile.TemporaryDirectory(prefix="rcnn-export-") as folder:
        copy = Path(folder) / name
        write_file(program, record, copy)
        return difference_of(copy, detector)
