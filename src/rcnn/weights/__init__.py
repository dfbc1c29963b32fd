"""Weights: rcnn checkpoints, and checkpoints of other systems, which are read without running their code."""
