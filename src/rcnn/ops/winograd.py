"""3x3 convolutions with fewer multiplications: Winograd's F(4x4, 3x3) (Lavin and Gray 2016, section 4.3).

A tile of 4 x 4 outputs depends on a window of 6 x 6 inputs. Windows and weights are transformed, so that 36 products of
matrices replace the convolution: 36 multiplications for a tile and a pair of channels, in place of 144. Sums are
rounded differently: the error is about three times that of a convolution in float32.

Letters: N maps of H x W pixels, C channels in, K channels out; r rows of w tiles in a strip of a map.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from rcnn.ops.tracing import is_traced

TILE, WINDOW = 4, 6  # sides
STRIP_BYTES = 8 << 20  # of the transformed windows of a strip, so that they stay in the processor's cache
LEAST_CHANNELS, LEAST_PIXELS = 256, 900  # below, the transforms take about as long as they save

# B^T, G and A^T of the paper, for the points 0, 1, -1, 2, -2
OF_WINDOW = (
    (4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1),
)  # fmt: skip
OF_WEIGHT = (
    (1 / 4, 0, 0), (-1 / 6, -1 / 6, -1 / 6), (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6), (1 / 24, -1 / 12, 1 / 6), (0, 0, 1),
)  # fmt: skip
OF_TILE = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


def winograd_is_faster(input: Tensor, weight: Tensor) -> bool:
    """Whether `winograd` is faster than oneDNN for maps (N, C, H, W) and `weight` (K, C, 3, 3).

    It is on x86 CPUs with AVX2 or AVX-512, for float32, many channels and large maps; it has no gradients and is not
    traced. The answer does not depend on N, so that a batch gives what its maps give alone.
    """
    return (
        input.device.type == "cpu"
        and weight.shape[2:] == (3, 3)
        and min(weight.shape[:2]) >= LEAST_CHANNELS
        and input.shape[2] * input.shape[3] >= LEAST_PIXELS
        and input.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not is_traced(input)
        and has_avx2()
    )


@cache
def has_avx2() -> bool:
    """Whether this is an x86 CPU with AVX2, and torch uses it or AVX-512."""
    return torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def winograd(input: Tensor, weight: Tensor, bias: Tensor | None, *, relu: bool = False) -> Tensor:
    """`F.conv2d(input, weight, bias, padding=1)`, and ReLU if wanted: (N, K, H, W), channels last, of (N, C, H, W).

    `weight` (K, C, 3, 3), `bias` (K,), all float32 or float64; without gradients. Memory beyond the result: the
    transformed weights and about 2.5 times STRIP_BYTES (or one row of tiles, if that is more), for any N and H.
    """
    count, channels, height, width = input.shape
    kernels = len(weight)
    rows, columns = -(-height // TILE), -(-width // TILE)  # of tiles
    of_window, of_tile = input.new_tensor(OF_WINDOW), input.new_tensor(OF_TILE)
    weights = transformed_weight(weight)  # (36, C, K)
    shift = input.new_zeros(kernels) if bias is None else bias
    output = input.new_empty(count, height, width, kernels)
    row = WINDOW**2 * columns * max(channels, kernels)
    most = min(rows, max(1, STRIP_BYTES // (row * input.element_size())))  # rows of tiles in a strip
    first, second = input.new_empty(2, row * most)  # memory for all strips and steps
    framed = input.new_zeros(TILE * most + 2, TILE * columns + 2, channels)  # a strip with a border of one pixel
    for maps, result in zip(input.permute(0, 2, 3, 1), output, strict=True):  # (H, W, C), (H, W, K)
        for start in range(0, rows, most):
            strip = frame(maps, TILE * start, TILE * min(start + most, rows), framed)
            windows = strip.unfold(0, WINDOW, TILE).unfold(1, WINDOW, TILE).permute(3, 4, 0, 1, 2)  # (6, 6, r, w, C)
            inputs = part(first, windows.shape).copy_(windows)
            inputs = on_both_sides(of_window, inputs, second, first).view(WINDOW**2, -1, channels)  # (36, r w, C)
            sums = torch.bmm(inputs, weights, out=part(second, (*inputs.shape[:2], kernels)))
            tiles = on_both_sides(of_tile, sums.view(*windows.shape[:4], kernels), first, second)  # (4, 4, r, w, K)
            tiles = tiles.permute(2, 0, 3, 1, 4)  # (r, 4, w, 4, K)
            whole = torch.add(tiles, shift, out=part(first, tiles.shape)).flatten(2, 3).flatten(0, 1)
            target = result[TILE * start : TILE * (start + most)]
            target.copy_((whole.relu_() if relu else whole)[: len(target), :width])
    return output.permute(0, 3, 1, 2)


def transformed_weight(weight: Tensor) -> Tensor:
    """(36, C, K) of weights (K, C, 3, 3)."""
    matrix = torch.tensor(OF_WEIGHT, dtype=torch.float64)
    both = torch.kron(matrix, matrix).to(weight.dtype)  # (36, 9)
    return torch.matmul(both, weight.permute(0, 2, 3, 1).flatten(1, 2)).permute(1, 2, 0)


def frame(maps: Tensor, start: int, end: int, framed: Tensor) -> Tensor:
    """Rows `start` - 1 to `end` of `maps` (H, W, C) in the memory `framed`, 0 outside: (end - start + 2, ..., C).

    The first column of `framed` and those after the W next ones are 0, and stay so.
    """
    height, width = maps.shape[:2]
    strip = framed[: end - start + 2]
    above, below = max(0, 1 - start), max(0, end + 1 - height)  # rows outside
    strip[:above] = 0
    strip[len(strip) - below :] = 0
    strip[above : len(strip) - below, 1 : width + 1] = maps[start - 1 + above : end + 1 - below]
    return strip


def on_both_sides(matrix: Tensor, values: Tensor, memory: Tensor, result: Tensor) -> Tensor:
    """matrix @ values @ matrix^T (m, m, ...) for `matrix` (m, n) and `values` (n, n, ...), in the memory `result`.

    `memory` is overwritten; `values` may be in the memory `result`.
    """
    m, n = matrix.shape
    half = torch.mm(matrix, values.reshape(n, -1), out=part(memory, (m, values[0].numel())))
    half = half.view(m, n, -1)
    both = torch.bmm(matrix.expand(m, m, n), half, out=part(result, (m, m, half.shape[2])))
    return both.view(m, m, *values.shape[2:])


def part(memory: Tensor, shape: tuple[int, ...] | torch.Size) -> Tensor:
    """The start of `memory` in the form of a tensor of `shape`."""
    return memory[: torch.Size(shape).numel()].view(shape)
