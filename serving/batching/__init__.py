"""Batches tiles of many requests and runs them on the devices; independent of HTTP and codecs.

May import threads, settings and errors only.
"""
