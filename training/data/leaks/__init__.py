"""Finds hold-out pictures among the training pictures by their fingerprints.

May import shards, fetch, sources and workers.
"""
