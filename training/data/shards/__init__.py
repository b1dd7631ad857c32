"""What a dataset will hold (the plan), and the building of each of its shards.

May import fetch, sources and workers.
"""
