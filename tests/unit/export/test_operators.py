"""Our ops as ONNX operators, in onnxruntime, against the ops themselves: all of them in one graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from rcnn.ops.keypoints import decode_keypoints
from rcnn.ops.nms import nms
from rcnn.ops.ps_roi import ps_roi_pool
from rcnn.ops.roi_align import roi_align
from rcnn.ops.roi_pool import roi_pool
from rcnn.ops.soft_nms import soft_nms

Arrays = dict[str, npt.NDArray[np.float64]]
SCALES = [1 / 8, 1 / 16]


class AllOps(nn.Module):
    """Every op with each of its settings, on the same boxes of two images."""

    @override
    def forward(
        self, boxes: Tensor, scores: Tensor, groups: Tensor, valid: Tensor, fine: Tensor, coarse: Tensor, maps: Tensor
    ) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        levels = groups % 2
        for name, keep in (("few", 12), ("more_than_boxes", 80)):
            found[f"nms_{name}_index"], found[f"nms_{name}_valid"] = nms(boxes, scores, groups, valid, 0.3, keep)
        found["nms_nothing_index"], found["nms_nothing_valid"] = nms(
            boxes, scores, groups, torch.zeros_like(valid), 0.3, 5
        )
        for name, sigma in (("linear", 0.0), ("gaussian", 0.5)):
            index, reduced, kept = soft_nms(boxes, scores.sigmoid(), groups, valid, 0.3, sigma, 0.05, 15)
            found |= {f"soft_{name}_index": index, f"soft_{name}_scores": reduced, f"soft_{name}_valid": kept}
        for ratio in (0, 2):
            for aligned in (False, True):
                found[f"align_{ratio}_{aligned}"] = roi_align(
                    [fine, coarse], boxes, levels, valid, SCALES, 3, ratio, aligned
                )
        nothing = torch.zeros_like(valid)
        found["align_nothing"] = roi_align([fine], boxes, levels * 0, nothing, SCALES[:1], 3, 2, True)
        found["pool"] = roi_pool([fine, coarse], boxes, levels, valid, SCALES, 3)[0]
        for rounded in (False, True):
            found[f"position_{rounded}"] = ps_roi_pool(fine[:, :8], boxes, valid, 1 / 8, 2, 4, rounded)
        found["keypoints"] = decode_keypoints(maps, boxes[:, : maps.shape[1]])
        return found


def inputs() -> tuple[Tensor, ...]:
    """Boxes (2, 40, 4), some beyond the image, one empty and one below a pixel, equal scores, and maps."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    corners = random(2, 40, 2) * 120 - 10
    boxes = torch.cat([corners, corners + random(2, 40, 2) * 60 + 1], -1)
    boxes[0, 0] = 0
    boxes[1, 1, 2:] = boxes[1, 1, :2] + 0.3
    scores = (random(2, 40) * 12 - 6).round() / 2  # negative ones, and ties
    groups = torch.randint(0, 4, (2, 40), generator=generator)
    valid = random(2, 40) > 0.2
    return (
        boxes, scores, groups, valid, random(2, 8, 16, 18) - 0.5, random(2, 8, 8, 9) - 0.5, random(2, 5, 3, 14, 14) * 9
    )  # fmt: skip


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> tuple[Arrays, Arrays]:
    """What the ops return, and what the ONNX graph returns."""
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs pip install 'rcnn[onnx]'")
    from rcnn.export.files import translate

    path: Path = tmp_path_factory.mktemp("operators") / "ops.onnx"
    values = inputs()
    expected = AllOps()(*values)
    names = [f"input{number}" for number in range(len(values))]
    program = torch.export.export(AllOps().eval(), values)
    translate(program, names, list(expected)).save(path)
    session = onnxruntime.InferenceSession(str(path))
    found = session.run(list(expected), {name: value.numpy() for name, value in zip(names, values, strict=True)})
    return (
        {name: value.numpy().astype(float) for name, value in expected.items()},
        {name: np.asarray(value, dtype=float) for name, value in zip(expected, found, strict=True)},
    )


@pytest.mark.parametrize(
    ("kind", "tolerance"),
    [("nms", 0.0), ("soft", 1e-6), ("align", 1e-5), ("pool", 0.0), ("position", 1e-6), ("keypoints", 1e-3)],
)
def test_the_translation_of_an_op_gives_its_values(results: tuple[Arrays, Arrays], kind: str, tolerance: float) -> None:
    expected, found = results
    names = [name for name in expected if name.startswith(kind)]
    assert names
    for name in names:
        np.testing.assert_allclose(found[name], expected[name], rtol=tolerance, atol=tolerance, err_msg=name)
    assert any(expected[name].any() for name in names)


def test_the_optimizer_does_not_compare_pairs_of_nodes() -> None:
    """Its only rule for two nodes at once is left out: its time grows with the square of the number of nodes."""
    pytest.importorskip("onnxscript", reason="needs pip install 'rcnn[onnx]'")
    from onnxscript import rewriter

    from rcnn.export.files import _without_slow_rules

    rules = rewriter._DEFAULT_REWRITE_RULES
    with _without_slow_rules():
        used = rewriter._DEFAULT_REWRITE_RULES
    assert rewriter._DEFAULT_REWRITE_RULES is rules
    assert used == tuple(rule for rule in rules if len(rule._target_pattern.output_nodes) == 1)
    assert len(used) == len(rules) - 1
