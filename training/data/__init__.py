"""Where training pictures come from and how they become pairs.

Imports nothing else of training. Its sub-packages, top first: pairs, leaks and packs, shards,
fetch, sources; each may import those after it.
"""
