"""A model: its bundle, network, backend, tiles and the upscaler that runs it.

May import image, dataset and common. `bundle` and `tiling` import no torch.
"""
