"""Enhances one picture: admission, decoding, tiling, consistency check, encoding.

May import models and the packages below it in docs/architecture.md.
"""
