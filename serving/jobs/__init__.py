"""Asynchronous jobs: pictures handed over now, enhanced in the background, fetched later.

May import enhance, models, batching, requests and telemetry; nothing of HTTP routes.
"""
