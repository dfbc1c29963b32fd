"""Values that flow between the parts of the library: frozen, checked on creation, of fixed capacity."""

from rcnn.structures.batch import Detections, ImageBatch, Proposals, Targets

__all__ = ["Detections", "ImageBatch", "Proposals", "Targets"]
