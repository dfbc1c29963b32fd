"""Backends of `torch.compile` that generate no code, so that the tests need no C++ compiler."""

from __future__ import annotations

FORWARD = "eager"  # traces the forward pass; its graph runs, and is differentiated, in eager mode
# traces the backward pass too, which takes three times as long; "aot_eager" would also search for the partition that
# saves most memory, which no test needs
BACKWARD = "aot_eager_default_partitioner"
