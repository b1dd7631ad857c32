"""What can be told from pixels: damage estimates, fingerprints, which model fits.

May import degrade, quality and what stands below them; imports no torch.
"""
