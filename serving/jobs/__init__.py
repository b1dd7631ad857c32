"""Asynchronous jobs: pictures are submitted, enhanced in the background and fetched later.

May import enhance and the packages below it in docs/architecture.md.
"""
