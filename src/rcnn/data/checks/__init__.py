"""Checks of annotation files: every field is read once, when the file is opened, by one rule for all formats."""
