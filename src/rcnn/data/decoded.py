"""An image as training reads it: a large JPEG is resized while it is decoded, because that is much faster.

The image is then the network's, while its objects are still in pixels of the file. The order of the calls:

1. `size_when_decoded` (transforms/augment.py): the size to which `augment` resizes an image, if it does so first.
2. `read_resized` (images.py): decodes a large JPEG at this size, and says so by `Decoded.file_size`.
3. `make_sample` (targets.py): a sample with this `file_size`; the objects are not moved.
4. `preprocess` (transforms/geometry.py), called by `augment`: moves the objects to the network's image, and resizes the
   image unless `Sample.is_resized`. From here on, `Sample.file_size` is None.

`Batches` (loading/batches.py) calls 1 to 3, then `augment`.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Decoded(NamedTuple):
    """The pixels of an image file, perhaps already resized."""

    image: Tensor  # (3, H, W) uint8 RGB
    file_size: tuple[int, int] | None = None  # (height, width) of the file if `image` is resized; None: that of `image`

    @property
    def original_size(self) -> tuple[int, int]:
        """(height, width) of the image before it was resized."""
        return self.file_size or (self.image.shape[1], self.image.shape[2])
