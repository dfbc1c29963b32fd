"""A Swin Transformer that is small enough for tests: timm has small versions of other networks only."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.swin_transformer import SwinTransformer, _create_swin_transformer


@register_model
def small_swin(pretrained: bool = False, **options: Any) -> SwinTransformer:
    """Swin-T with a quarter of its channels, and two blocks in each stage: one plain, one with shifted windows."""
    size = {"patch_size": 4, "window_size": 7, "embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
    return _create_swin_transformer("swin_tiny_patch4_window7_224", pretrained=pretrained, **size, **options)
