"""Analysis of pixels: degradation features, fingerprints, model selection.

May import degrade, quality and the packages below them; imports no torch.
"""
