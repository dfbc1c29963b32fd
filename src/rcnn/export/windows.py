"""The masks of Swin's shifted windows, computed without slices while torch.export traces the network.

timm numbers nine parts of the map by writing to a slice for each. With sizes that are not known, torch.export needs
longer for these slices than for the rest of a block.

Letters: H x W the map, a multiple of the windows' h x w; N = H W / (h w) windows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

MASKED = -100.0  # is added to the attention between pixels that are not neighbours


@contextlib.contextmanager
def window_masks_without_slices(network: nn.Module) -> Iterator[None]:
    """Within the block, the blocks of timm's Swin in `network` take their masks from `window_mask`."""
    modules: Any = network.modules()
    blocks: list[Any] = [
        module
        for module in modules
        if getattr(module, "dynamic_mask", False) and hasattr(module, "get_attn_mask") and any(module.shift_size)
    ]
    for block in blocks:
        block.get_attn_mask = partial(window_mask, block.window_size, block.shift_size)
    try:
        yield
    finally:
        for block in blocks:
            del block.get_attn_mask  # that of the class is used again


def window_mask(window: tuple[int, int], shift: tuple[int, int], x: Tensor) -> Tensor:
    """The mask (N, h w, h w) of a map (B, H, W, C) that was shifted by `shift`: MASKED or 0, of the map's type.

    The last `shift` rows and columns come from the other side of the map, so they do not belong to the other pixels of
    their windows.
    """
    (h, w), (height, width) = window, x.shape[1:3]
    row = (torch.arange(height, device=x.device) >= height - shift[0]).long()
    column = (torch.arange(width, device=x.device) >= width - shift[1]).long()
    parts = (2 * row[:, None] + column).view(height // h, h, width // w, w)
    parts = parts.permute(0, 2, 1, 3).reshape(-1, h * w)  # (N, h w)
    return torch.where(parts[:, None] != parts[:, :, None], MASKED, 0.0).to(x.dtype)
