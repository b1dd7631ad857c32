"""Pairs datasets: built from a plan, sealed, verified again, shown.

May import leaks, packs, shards, fetch, sources and workers.
"""
