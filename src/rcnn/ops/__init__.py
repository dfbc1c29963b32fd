"""Mathematics of the R-CNN family as functions of tensors: no state, plain tensors only, computed in float32.

An operation with a data-dependent size is an opaque op of fixed capacity, registered with `torch.library` as `rcnn::`.
"""
