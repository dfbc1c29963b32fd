"""Reserved for Triton kernels: one file per op, the only files that import triton.

Each is registered for CUDA on an op defined in `rcnn.ops`, and is tested against that definition.
"""
