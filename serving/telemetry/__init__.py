"""What operators see: metrics, log lines, input drift, and background tasks.

May import errors and settings alone.
"""
