"""HTTP routes, one module a subject.

May import what serving.http may; only the app imports it.
"""
