"""Finds out which ResNet a file contains, from the names of its tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Depth = Literal[50, 101, 152]
# blocks of res2, res3, res4 and res5 (He et al. 2016, table 1)
DEPTHS: dict[tuple[int, ...], Depth] = {(3, 4, 6, 3): 50, (3, 4, 23, 3): 101, (3, 8, 36, 3): 152}
OURS = r"(?:backbone|box_head\.trunk)\.res(\d)\.(\d+)\..+"


def torch_blocks(theirs: str, ours: str, norm: str = "bn") -> tuple[tuple[str, str], ...]:
    """Rules (`Rules.pairs`) for the blocks of a ResNet that have torchvision's names.

    `theirs` is a pattern up to the number of the block; the template `ours` uses its groups. `norm` is a pattern.
    """
    groups = re.compile(theirs).groups
    first, second = f"{{{groups + 1}}}", f"{{{groups + 2}}}"
    return (
        (rf"{theirs}\.conv(\d)\.(weight)", f"{ours}.conv{first}.{second}"),
        (rf"{theirs}\.{norm}(\d)\.(.+)", f"{ours}.conv{first}.norm.{second}"),
        (rf"{theirs}\.downsample\.0\.(weight)", f"{ours}.shortcut.{first}"),
        (rf"{theirs}\.downsample\.1\.(.+)", f"{ours}.shortcut.norm.{first}"),
    )


def blocks_of(names: Iterable[str], pattern: str = OURS, stages: tuple[int, ...] = (2, 3, 4, 5)) -> tuple[int, ...]:
    """Number of blocks in each of `stages`; `pattern` matches a whole name, and its groups are stage and block."""
    found = {(match[1], match[2]) for name in names if (match := re.fullmatch(pattern, name))}
    return tuple(sum(stage == str(number) for stage, _ in found) for number in stages)


def known_depth(blocks: tuple[int, ...], source: str) -> Depth:
    """The depth of a ResNet with these numbers of blocks in its first stages. Raises ValueError that names `source`."""
    for known, depth in DEPTHS.items():
        if blocks and known[: len(blocks)] == blocks:
            return depth
    raise ValueError(
        f"{source} has a ResNet with {', '.join(map(str, blocks)) or 'no'} blocks in its stages; supported are "
        "3, 4, 6, 3 (R-50), 3, 4, 23, 3 (R-101) and 3, 8, 36, 3 (R-152)"
    )


def depth_and_blocks(blocks: tuple[int, ...]) -> tuple[Depth, tuple[int, ...]]:
    """ResNetConfig's `depth` and `blocks` for the numbers of blocks in four stages; `blocks` is () for usual ones."""
    return (DEPTHS[blocks], ()) if blocks in DEPTHS else (50, blocks)
