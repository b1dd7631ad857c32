"""Datasets of training pairs: built from a plan, sealed, verified, shown.

May import leaks, packs, shards, fetch, sources and workers.
"""
