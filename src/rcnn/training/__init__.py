"""Training: the loop on one screen (engine.py), its settings, schedule, state and log; run.py puts a run together."""
