"""The features of given boxes, as arrays on the CPU.

Letters: N boxes of one image, C channels and s side of the pooled maps, F channels after the trunk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    from rcnn.models.heads.box import PooledRegions


@dataclass(frozen=True, kw_only=True)
class RegionFeatures:
    """The box head's features of N given boxes of one image; row i of each array is box i.

    C channels and side s of the pooled map, F features of the head: 256 x 7 x 7 and 1024 with an FPN; 1024 x 14 x 14
    (mask-faster-rcnn: 7 x 7) and 2048 with C4, where `vectors` are the means of `maps`; 112 x 6 x 6 and 160 with
    FBNetV3.
    """

    boxes: npt.NDArray[np.float32]  # (N, 4) xyxy, pixels of the original image
    pooled: npt.NDArray[np.float32]  # (N, C, s, s), pooled from the level of the pyramid that fits the box
    maps: npt.NDArray[np.float32] | None  # (N, F, h, w), the output of res5 (C4); None with fully connected layers
    vectors: npt.NDArray[np.float32]  # (N, F), the input of the last layers, which compute classes and boxes ("fc7")

    @classmethod
    def of(cls, regions: PooledRegions, boxes: npt.NDArray[np.float32]) -> Self:
        """The features of `boxes` (N, 4): the first N rows of image 0 in `regions`."""
        count = len(boxes)
        maps = None if regions.maps is None else _to_numpy(regions.maps[0, :count])
        return cls(
            boxes=boxes,
            pooled=_to_numpy(regions.pooled[0, :count]),
            maps=maps,
            vectors=_to_numpy(regions.vectors[0, :count]),
        )

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def pooled_means(self) -> npt.NDArray[np.float32]:
        """(N, C), the means of `pooled` over the cells ("pool5" of mask-faster-rcnn's extractors)."""
        return self.pooled.mean((2, 3))


def _to_numpy(values: Tensor) -> npt.NDArray[np.float32]:
    return values.float().cpu().numpy()
