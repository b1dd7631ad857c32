"""Held-out pictures that appear among the training pictures, found by their fingerprints.

May import shards, fetch, sources and workers.
"""
