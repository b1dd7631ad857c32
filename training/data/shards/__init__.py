"""The plan of a dataset, and the building of its shards.

May import fetch, sources and workers.
"""
