"""What numpy and torch have in common, so that one text degrades on a CPU and on a device.

Both follow the array API standard closely enough; what an array is decides which of the two runs,
and neither is imported for it. Pictures are (B, 3, H, W) floats in [0, 1].

Noise comes from a hash of seed and position in integer arithmetic: the same bits everywhere, and
none of them drawn on one side to be carried to the other.
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
    """Values as an array of the same kind, float type and device as `array`."""
    return namespace(array).asarray(np.asarray(values), dtype=array.dtype, device=array.device)


def as_index_like(values: npt.ArrayLike, array: Array) -> Array:
    """Whole numbers as an int64 array of the same kind and device as `array`."""
    xp = namespace(array)
    return xp.asarray(np.asarray(values, np.int64), device=array.device)


def per_sample(values: Sequence[float], batch_bchw: Array) -> Array:
    """One number for each picture of a batch, shaped to be multiplied with it."""
    return as_array_like(values, batch_bchw).reshape(-1, 1, 1, 1)


def reflected(length: int, before: int, after: int) -> npt.NDArray[np.int64]:
    """Indices that extend an axis by reflection about its end samples, again and again if short."""
    if length == 1:
        return np.zeros(before + 1 + after, np.int64)
    places = np.mod(np.arange(-before, length + after), 2 * (length - 1))
    return np.minimum(places, 2 * (length - 1) - places)


def uniforms(shape: tuple[int, ...], seeds: Sequence[int], like: Array) -> tuple[Array, Array]:
    """Two independent fields (B, *shape) in (0, 1), one row of fields for each seed.

    The 24 bits behind each value are the same in numpy and torch.
    """
    xp = namespace(like)
    count = int(np.prod(shape))
    places = xp.arange(count, device=like.device).reshape(1, -1) * 2
    keys = np.array([np.random.SeedSequence(seed).generate_state(2) for seed in seeds])
    first, second = (as_index_like(keys[:, [column]], like) for column in (0, 1))
    fields = []
    for place in (places, places + 1):
        bits = _mixed((_mixed(place ^ first) + second) & LOW_32_BITS) >> 8
        fields.append((xp.asarray(bits, dtype=like.dtype) + 0.5) / 2**24)
    return fields[0].reshape(len(seeds), *shape), fields[1].reshape(len(seeds), *shape)


def normals(shape: tuple[int, ...], seeds: Sequence[int], like: Array) -> Array:
    """Standard normal fields (B, *shape), one for each seed (Box and Muller 1958)."""
    xp = namespace(like)
    count = int(np.prod(shape))
    radius, angle = uniforms(((count + 1) // 2,), seeds, like)
    radius = xp.sqrt(-2 * xp.log(radius))
    both = xp.concatenate((radius * xp.cos(2 * pi * angle), radius * xp.sin(2 * pi * angle)), -1)
    return both[:, :count].reshape(len(seeds), *shape)


def _mixed(bits: Array) -> Array:
    """Wellons' lowbias32 on the low 32 bits of int64, which both libraries multiply alike."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x7FEB352D) & LOW_32_BITS
    bits = bits ^ (bits >> 15)
    bits = (bits * 0x846CA68B) & LOW_32_BITS
    return bits ^ (bits >> 16)
