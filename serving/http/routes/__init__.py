"""HTTP routes, one module a subject.

May import everything that serving.http may; the app alone imports it.
"""
