"""Rules of old systems, each a subclass of the plain rule; build.py chooses by the settings of config/legacy.py."""
