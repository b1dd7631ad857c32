"""Scores of a model on held-out pictures, and the HTML report.

May import analysis and the packages below it in docs/architecture.md.
"""
