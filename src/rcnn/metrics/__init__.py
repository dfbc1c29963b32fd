"""Numbers of COCO: average precision and per-class tables."""
