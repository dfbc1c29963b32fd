"""Evaluation of detections: metrics, results files and reports."""
