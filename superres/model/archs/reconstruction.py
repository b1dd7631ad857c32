"""Parts that several networks share: the mean colour, and layers of the reconstruction."""

from torch import nn

DIV2K_MEAN = (0.4488, 0.4371, 0.4040)
RECONSTRUCTION_FEATURES = 64


def residual_convolution(channels: int, kind: str) -> nn.Module:
    if kind == "1conv":
        return nn.Conv2d(channels, channels, 3, 1, 1)
    quarter = channels // 4
    return nn.Sequential(
        nn.Conv2d(channels, quarter, 3, 1, 1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(quarter, quarter, 1, 1, 0),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(quarter, channels, 3, 1, 1),
    )


def shuffle_steps(scale: int, features: int) -> list[nn.Module]:
    """A convolution and a pixel shuffle per factor of 2, or once for 3."""
    factors = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
    if scale != 3 and 2 ** len(factors) != scale:
        raise TypeError(f"the pixelshuffle upsampler enlarges by 2^n or 3, not {scale}")
    steps: list[nn.Module] = []
    for factor in factors:
        steps += [nn.Conv2d(features, features * factor**2, 3, 1, 1), nn.PixelShuffle(factor)]
    return steps
