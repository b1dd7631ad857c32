"""Asynchronous jobs: pictures handed over now, enhanced in the background, fetched later.

May import enhance and what stands below it in docs/architecture.md.
"""
