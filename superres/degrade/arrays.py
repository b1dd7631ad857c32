"""Array helpers for numpy and torch, so that the same code degrades on a CPU and on a device.

Both follow the array API standard closely enough; the type of an array selects the library, and
neither is imported here. Pictures are (B, 3, H, W) floats in [0, 1].

Noise is an integer hash of seed and position: the same bits in both libraries and on every device,
without copying random numbers between them.
"""

import sys
from collections.abc import Sequence
from math import pi
from typing import Any

import numpy as np
import numpy.typing as npt

Array = Any  # numpy.ndarray or torch.Tensor: they share no type

LOW_32_BITS = 0xFFFFFFFF


def namespace(array: Array) -> Any:
    """The module whose functions take this array: numpy or torch."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def as_array_like(values: npt.ArrayLike, array: Array) -> Array:
    """Values as an array of the library, dtype and device of `array`."""
    return namespace(array).asarray(np.asarray(values), dtype=array.dtype, device=array.device)


def as_index_like(values: npt.ArrayLike, array: Array) -> Array:
    """Integers as an int64 array of the library and device of `array`."""
    xp = namespace(array)
    return xp.asarray(np.asarray(values, np.int64), device=array.device)


def per_sample(values: Sequence[float], batch_bchw: Array) -> Array:
    """One number per picture of a batch, shaped (B, 1, 1, 1) for broadcasting."""
    return as_array_like(values, batch_bchw).reshape(-1, 1, 1, 1)


def reflected(length: int, before: int, after: int) -> npt.NDArray[np.int64]:
    """Indices that extend an axis by reflection about its end samples, repeatedly if short."""
    if length == 1:
        return np.zeros(before + 1 + after, np.int64)
    positions = np.mod(np.arange(-before, length + after), 2 * (length - 1))
    return np.minimum(positions, 2 * (length - 1) - positions)


def uniforms(shape: tuple[int, ...], seeds: Sequence[int], like: Array) -> tuple[Array, Array]:
    """Two independent uniform fields (B, *shape) in (0, 1), one per seed.

    The 24 bits behind each value are the same in numpy and torch.
    """
    xp = namespace(like)
    count = int(np.prod(shape))
    positions = xp.arange(count, device=like.device).reshape(1, -1) * 2
    keys = np.array([np.random.SeedSequence(seed).generate_state(2) for seed in seeds])
    first, second = (as_index_like(keys[:, [column]], like) for column in (0, 1))
    fields = []
    for position in (positions, positions + 1):
        bits = _lowbias32((_lowbias32(position ^ first) + second) & LOW_32_BITS) >> 8
        fields.append((xp.asarray(bits, dtype=like.dtype) + 0.5) / 2**24)
    return fields[0].reshape(len(seeds), *shape), fields[1].reshape(len(seeds), *shape)


def normals(shape: tuple[int, ...], seeds: Sequence[int], like: Array) -> Array:
    """Standard normal fields (B, *shape), one per seed (Box and Muller 1958)."""
    xp = namespace(like)
    count = int(np.prod(shape))
    radius, angle = uniforms(((count + 1) // 2,), seeds, like)
    radius = xp.sqrt(-2 * xp.log(radius))
    both = xp.concatenate((radius * xp.cos(2 * pi * angle), radius * xp.sin(2 * pi * angle)), -1)
    return both[:, :count].reshape(len(seeds), *shape)


def _lowbias32(bits: Array) -> Array:
    """Wellons' lowbias32 hash on the low 32 bits of int64, exact in both libraries."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x7FEB352D) & LOW_32_BITS
    bits = bits ^ (bits >> 15)
    bits = (bits * 0x846CA68B) & LOW_32_BITS
    return bits ^ (bits >> 16)
