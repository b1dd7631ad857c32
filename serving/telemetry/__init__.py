"""What operators see: metrics, log lines, input drift, and background tasks.

May import background and what stands below it in docs/architecture.md.
"""
