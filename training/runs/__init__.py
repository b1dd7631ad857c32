"""Run folders and experiment tracking with MLflow.

May import bundles, data and the recipe.
"""
