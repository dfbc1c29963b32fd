"""Annotated images: folders to data sets, files to tensors, tensors to batches."""

from rcnn.data.opening import open_dataset, splits
from rcnn.data.records import Dataset, ImageRecord

__all__ = ["Dataset", "ImageRecord", "open_dataset", "splits"]
