"""Op -> function that translates it, for `torch.onnx.export(custom_translation_table=...)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from rcnn.export.operators import keypoints, pooling, position_sensitive, suppression
from rcnn.ops import keypoints as keypoint_ops
from rcnn.ops import nms, ps_roi, roi_align, roi_pool, soft_nms

TRANSLATIONS: dict[OpOverload[..., Any], Callable[..., Any]] = {
    nms.nms.overload: suppression.nms,
    torch.ops.aten.sort.stable: suppression.sort_stable,
    soft_nms.soft_nms.overload: suppression.soft_nms,
    roi_align.roi_align.overload: pooling.roi_align,
    roi_pool.roi_pool.overload: pooling.roi_pool,
    ps_roi.ps_roi_pool.overload: position_sensitive.ps_roi_pool,
    keypoint_ops.decode_keypoints.overload: keypoints.decode_keypoints,
}
