"""Recipes in, bundles out."""
