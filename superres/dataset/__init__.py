"""The dataset folder: the manifest of its pairs, and the marker of clients' pictures.

May import common; imports no torch.
"""
