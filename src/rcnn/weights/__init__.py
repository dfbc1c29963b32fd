"""Weights: our checkpoints, and those of other systems read without running their code."""
