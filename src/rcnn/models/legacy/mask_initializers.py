"""Initial weights of the mask head as in chainer-mask-rcnn (its `--initializer`)."""

from __future__ import annotations

from torch import nn

from rcnn.models.heads.mask import MaskHead
from rcnn.models.layers import init_linear, zero_bias


def initialize_last_layers(head: MaskHead, *, he: bool) -> None:
    """Initialize the weights of the mask head's deconvolution and logits, and set the biases to 0.

    With `he`: He et al. 2015 by the number of output channels; else a normal distribution with standard deviation 0.01.
    """
    for layer in (head.deconv, head.logits):
        if layer is None:
            continue
        if he:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            zero_bias(layer)
        else:
            init_linear(layer, std=0.01)
