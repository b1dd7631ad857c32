"""Weights that come from elsewhere: what a training starts from, and imports of foreign files.

May import runs, bundles, data and the recipe.
"""
