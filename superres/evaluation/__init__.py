"""Scores of a model on held-out pictures, and the page that shows them.

May import analysis and what stands below it in docs/architecture.md.
"""
