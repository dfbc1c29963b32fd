"""Evaluation of detections: COCO's metrics, reports and tables."""
