"""The published weight files that commands accept by name: the URL, the published AP and the licence of each.

entry.py says what is known of a file, tables/ has one file of facts per publisher, names.py finds entries by name, and
cache.py downloads and converts one on first use.
"""
