"""Runs models: device, precision, checkpoints and exported files, and the processes that share a run."""
