"""`rcnn benchmark`: measures the stages of a model on this machine, compared with torchvision."""
