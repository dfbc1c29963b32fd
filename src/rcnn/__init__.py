"""The R-CNN family for PyTorch."""

__version__ = "0.2.0.dev0"
