"""Mathematics of the R-CNN family as functions of tensors: no state, no types of ours, float32 inside.

What is dynamic by nature is an opaque op of fixed capacity, registered through `torch.library` under `rcnn::`.
"""
