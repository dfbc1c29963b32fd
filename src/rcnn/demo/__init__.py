"""`make demo`: synthetic pictures and the run that trains, evaluates and predicts on them."""
