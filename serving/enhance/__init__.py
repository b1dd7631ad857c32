"""One picture from its bytes to its answer: admission, decoding, tiles, checks, encoding.

May import models, batching, requests and telemetry.
"""
