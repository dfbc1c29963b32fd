"""Measures a model on this machine, stage by stage, beside torchvision's: `rcnn benchmark`."""
