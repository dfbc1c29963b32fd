"""MMDetection 2 and 3."""
