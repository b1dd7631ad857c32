"""Trained weights become a bundle: validation, bounds, licence, model card.

May import data and the recipe.
"""
