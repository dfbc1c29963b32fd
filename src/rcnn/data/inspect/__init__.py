"""What `rcnn data` does with a data set: check it, repair it, describe it, divide it."""
