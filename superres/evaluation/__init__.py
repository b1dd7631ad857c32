"""Scores of a model on held-out pictures, and the page that shows them.

May import analysis, quality, model, image, dataset and common.
"""
