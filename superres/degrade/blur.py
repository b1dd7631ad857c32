"""Blur by convolution with a kernel, on a CPU or a device."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from superres.degrade.arrays import Array, as_array_like, as_index_like, namespace, reflected
from superres.degrade.kernels import Kernel, Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Blur:
    """Convolve each picture of a batch with its own kernel, borders reflected."""

    kernel: Kernel

    @staticmethod
    def run(batch_bchw: Array, steps: "Sequence[Blur]") -> Array:
        return filtered(batch_bchw, [step.kernel.weights() for step in steps])


def filtered(batch_bchw: Array, kernels: Sequence[Weights]) -> Array:
    """Convolve each picture with its (odd) kernel by FFT."""
    xp = namespace(batch_bchw)
    height, width = batch_bchw.shape[-2:]
    reach = max(len(weights) for weights in kernels) // 2
    size = (fast_length(height + 2 * reach), fast_length(width + 2 * reach))
    rows = reflected(height, reach, size[0] - height - reach)
    columns = reflected(width, reach, size[1] - width - reach)
    padded = batch_bchw[:, :, as_index_like(rows, batch_bchw)]
    padded = padded[..., as_index_like(columns, batch_bchw)]
    stacked = as_array_like([[_centred(weights, reach)] for weights in kernels], batch_bchw)
    spectrum = xp.fft.rfft2(padded) * xp.fft.rfft2(stacked, s=size)
    both = 2 * reach
    return xp.fft.irfft2(spectrum, s=size)[..., both : both + height, both : both + width]


def fast_length(length: int) -> int:
    """The smallest length from `length` on without prime factors above 5, for which the FFT is
    fast."""
    while not _smooth(length):
        length += 1
    return length


def _smooth(length: int) -> bool:
    for prime in (2, 3, 5):
        while length % prime == 0:
            length //= prime
    return length == 1


def _centred(weights: Weights, reach: int) -> Weights:
    return np.pad(weights, reach - len(weights) // 2)
