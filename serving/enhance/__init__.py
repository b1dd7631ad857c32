"""One picture from its bytes to its answer: admission, decoding, tiles, checks, encoding.

May import models and what stands below it in docs/architecture.md.
"""
