"""Tiles of many requests in batches on the devices; knows neither HTTP nor pictures.

May import threads, settings and errors alone.
"""
