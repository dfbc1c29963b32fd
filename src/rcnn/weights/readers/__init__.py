"""Opens files of weights without running anything in them: every format is read by a machine with nothing to call."""
