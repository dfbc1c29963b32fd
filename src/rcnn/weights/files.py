"""Names of the files of a checkpoint. This module needs no torch, so commands can check folders before they load it."""

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
STATE_FILE = "training.pt"  # beside them in the folder of a run, to resume it
