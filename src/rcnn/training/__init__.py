"""Training: the plan of a run, the loop, and what a run keeps on disk."""
