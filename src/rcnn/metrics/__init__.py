"""COCO, LVIS and VOC metrics."""
