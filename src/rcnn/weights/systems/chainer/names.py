"""Names of values and convolutions of a ResNet in chainer.links -> ours."""

from __future__ import annotations

VALUE = "(W|b|gamma|beta|avg_mean|avg_var)"
# the `words` of Rules
WORDS = {
    "value": {
        "W": "weight", "b": "bias", "gamma": "norm.weight", "beta": "norm.bias",
        "avg_mean": "norm.running_mean", "avg_var": "norm.running_var",
    },
    "conv": {"1": "conv1", "2": "conv2", "3": "conv3", "4": "shortcut"},
}  # fmt: skip
EPS = 2e-5  # eps of chainer.links.BatchNormalization
