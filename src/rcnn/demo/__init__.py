"""`rcnn demo`: a synthetic data set, and the run that trains, evaluates and predicts on it."""
