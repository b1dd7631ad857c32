"""Initial weights of trainings, and imports of external weights.

May import runs, bundles, data and the recipe.
"""
