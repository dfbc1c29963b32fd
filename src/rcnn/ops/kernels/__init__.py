"""The place of Triton kernels: one file an op, the only files that import triton.

Each is registered for CUDA on an op that a sibling of this package defines, and is tested against that definition.
"""
