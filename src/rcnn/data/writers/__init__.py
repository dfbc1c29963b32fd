"""Objects of an image as text in the formats of other tools. `rcnn.data.formats` reads these formats."""
