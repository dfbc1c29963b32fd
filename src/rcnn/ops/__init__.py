"""Mathematics of the R-CNN family as functions of tensors and numpy arrays, without state and without our own types.

Half-precision values are computed in float32. Where an old system rounds or computes in integers, so do we.

An operation with a data-dependent size is an opaque op of fixed capacity, registered with `torch.library` as `rcnn::`.
"""
