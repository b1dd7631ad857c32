"""Training pictures as memory-mapped uint8, and random crops of them.

May import shards, fetch, sources and workers.
"""
