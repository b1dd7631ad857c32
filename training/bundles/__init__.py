"""Bundles from trained weights: validation, bounds, licence, model card.

May import data and the recipe.
"""
