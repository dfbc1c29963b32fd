"""Training batches: which images, padded to one shape, made by worker processes."""

from rcnn.data.loading.batches import Batches, LoaderSettings, numbered_batches, require_masks_to_copy, training_batches
from rcnn.data.loading.padding import Padding, alike, pad_images, padded_shape, require_padding
from rcnn.data.loading.prefetch import prefetched
from rcnn.data.loading.sampler import BatchSampler
from rcnn.data.loading.training_batch import TrainingBatch
from rcnn.data.loading.workers import WorkerError

__all__ = [
    "BatchSampler",
    "Batches",
    "LoaderSettings",
    "Padding",
    "TrainingBatch",
    "WorkerError",
    "alike",
    "numbered_batches",
    "pad_images",
    "padded_shape",
    "prefetched",
    "require_masks_to_copy",
    "require_padding",
    "training_batches",
]
