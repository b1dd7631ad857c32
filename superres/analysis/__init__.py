"""What can be told from pixels: damage estimates, fingerprints, which model fits.

May import quality, model, image and common; imports no torch.
"""
