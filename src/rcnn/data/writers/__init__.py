"""Writes the objects of an image in the formats of other tools. `rcnn.data.formats` reads these formats."""
