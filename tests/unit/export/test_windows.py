"""The masks of Swin's shifted windows, against those of timm."""

from __future__ import annotations

import pytest
import torch

from rcnn.export.windows import window_mask, window_masks_without_slices

timm = pytest.importorskip("timm", reason="needs pip install 'rcnn[timm]'")

from timm.models.swin_transformer import SwinTransformerBlock  # noqa: E402


@pytest.mark.parametrize(
    ("window", "shift", "size"), [(7, 3, (14, 21)), (7, 3, (7, 7)), (4, 2, (12, 4)), (7, 6, (7, 28))]
)
def test_masks_are_those_of_timm(window: int, shift: int, size: tuple[int, int]) -> None:
    options = {"window_size": window, "shift_size": shift, "always_partition": True, "dynamic_mask": True}
    block = SwinTransformerBlock(8, size, num_heads=1, **options)
    x = torch.zeros(2, *size, 8, dtype=torch.bfloat16)
    expected = block.get_attn_mask(x)
    assert expected is not None
    assert bool((expected != 0).any())
    assert torch.equal(window_mask((window, window), (shift, shift), x), expected)


def test_only_shifted_windows_of_any_size_are_replaced_and_only_within_the_block() -> None:
    options = {"window_size": 7, "always_partition": True}
    shifted = SwinTransformerBlock(8, (14, 14), num_heads=1, shift_size=3, dynamic_mask=True, **options)
    plain = SwinTransformerBlock(8, (14, 14), num_heads=1, shift_size=0, dynamic_mask=True, **options)
    fixed = SwinTransformerBlock(8, (14, 14), num_heads=1, shift_size=3, **options)
    network, x = torch.nn.Sequential(shifted, plain, fixed).eval(), torch.rand(1, 14, 21, 8)
    expected = [block._attn(x) for block in (shifted, plain)]
    with window_masks_without_slices(network):
        assert ["get_attn_mask" in vars(block) for block in network] == [True, False, False]
        for block, values in zip((shifted, plain), expected, strict=True):
            assert torch.equal(block._attn(x), values)
    assert not any("get_attn_mask" in vars(block) for block in network)
