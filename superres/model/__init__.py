"""Models: bundles, networks, backends, tiling and the upscaler that runs a model.

May import image, dataset and common. `bundle` and `tiling` import no torch.
"""
