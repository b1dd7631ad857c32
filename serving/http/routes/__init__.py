"""HTTP routes, one module per subject.

May import what serving.http may; only the app imports it.
"""
