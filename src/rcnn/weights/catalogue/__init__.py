"""The published weight files that commands accept by name: the URL, the published AP and the licence of each.

entry.py defines the facts about a file, tables/ has one table per publisher, names.py finds entries by name, and
cache.py downloads and converts one on first use.
"""
