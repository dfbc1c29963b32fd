"""Readers of weight files; nothing in a file is ever run, because the readers have no way to call it."""
