"""The R-CNN family for PyTorch."""

__version__ = "0.1.0"
