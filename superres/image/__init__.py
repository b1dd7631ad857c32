"""Pictures: decoding, encoding, colour, metadata, resizing and regions.

The only package that reads or writes picture files. May import common; imports no torch.
"""
