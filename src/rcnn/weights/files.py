"""Names of the files of a checkpoint. Here, because a command that checks folders first does not import torch."""

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
