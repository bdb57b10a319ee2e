"""Pruning as graph surgery: which channels depend on each other, and how they, or single weights, go. Needs no data."""
