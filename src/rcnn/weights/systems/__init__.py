"""The frameworks whose checkpoints are imported: a module or folder for each, listed in `known.SYSTEMS`.

`system.System` explains what a framework offers.
"""
