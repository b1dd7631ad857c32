"""Tiles of many requests in batches on the devices; knows neither HTTP nor pictures.

May import errors and settings alone.
"""
