"""What a dataset folder holds: the manifest of its pairs, and the consent mark.

May import common; imports no torch.
"""
