"""Values that the parts of the library exchange: frozen, checked on creation, with a fixed capacity."""

from rcnn.structures.batch import Detections, ImageBatch, Proposals, Targets

__all__ = ["Detections", "ImageBatch", "Proposals", "Targets"]
