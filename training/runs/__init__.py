"""The record of one training: its folder, and what MLflow is told of it.

May import bundles, data and the recipe.
"""
