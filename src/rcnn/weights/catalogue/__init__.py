"""The published weight files that commands accept by name: where each is, what it scores, and its licence.

entry.py says what is known of a file, tables/ has one file of facts per publisher, names.py finds entries by name, and
cache.py downloads and converts one on first use.
"""
