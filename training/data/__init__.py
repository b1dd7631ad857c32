"""Where training pictures come from and how they become pairs.

Imports nothing of training but the recipe. Its sub-packages, top first: pairs, leaks and packs,
shards, fetch, sources; each may import those after it.
"""
