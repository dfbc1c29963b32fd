"""Pictures of detections, charts of a training run, pages of reports."""
