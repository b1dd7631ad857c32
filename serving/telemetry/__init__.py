"""Metrics, logs and input drift.

May import background and the packages below it in docs/architecture.md.
"""
