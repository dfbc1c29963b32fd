"""Mathematics of the R-CNN family as functions of tensors and numpy arrays, without state and without rcnn's types.

Half-precision values are computed in float32. Functions that reproduce an old system round as it does, and compute in
integers where it does.

An operation with a data-dependent size is an opaque op of fixed capacity, registered with `torch.library` as
`rcnn::NAME`.
"""
