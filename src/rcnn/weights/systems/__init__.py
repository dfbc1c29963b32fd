"""One module or folder for each framework whose checkpoints are imported."""
