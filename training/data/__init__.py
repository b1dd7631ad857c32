"""Sources of training pictures, and datasets of training pairs.

Imports nothing of training but the recipe. Sub-packages from top to bottom: pairs, leaks and packs,
shards, fetch, sources; each may import those after it.
"""
