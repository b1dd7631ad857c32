"""JPEG compression: by a real encoder, or simulated with libjpeg's arithmetic on any device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from superres.degrade.arrays import Array, as_array_like, as_index_like, namespace
from superres.degrade.result import Pixels
from superres.image.codecs import Picture, decode, encode
from superres.image.dct import orthonormal_dct
from superres.image.encode import encode_jpeg
from superres.image.jpeg_tables import CHROMA_TABLE, LUMA_TABLE, scaled_table

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]

# JFIF: RGB to YCbCr, and back.
TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]]
)
TO_RGB = np.array([[1, 0, 1.402], [1, -0.344136286, -0.714136286], [1, 1.772, 0]])
# Integer inputs make rounding ties common; the offset makes their rounding independent of float
# error in the last bit.
TIE_OFFSET = 2.5e-4
CENTRE = np.array([0.0, 128.0, 128.0]).reshape(1, 3, 1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """One simulated JPEG compression; all pictures of a batch have the same subsampling."""

    quality: int
    subsampling: Subsampling = "4:2:0"

    @staticmethod
    def run(batch_bchw: Array, steps: "Sequence[Jpeg]") -> Array:
        if len({step.subsampling for step in steps}) > 1:
            raise ValueError("all pictures of a batch must have the same subsampling")
        return simulate(batch_bchw, [step.quality for step in steps], steps[0].subsampling)


def compress(rgb_hwc_u8: Pixels, quality: int) -> Pixels:
    """Encode the picture as JPEG at `quality` (1 to 95) and decode it."""
    return decode(encode(Picture(rgb_hwc=rgb_hwc_u8), "jpeg", quality=quality)).rgb_hwc


def compress_as(
    rgb_hwc_u8: Pixels,
    subsampling: Subsampling,
    *,
    quality: int | None = None,
    photoshop: str | None = None,
) -> Pixels:
    """Encode as JPEG with libjpeg's tables at a quality, or a Photoshop preset's, and decode."""
    data = encode_jpeg(rgb_hwc_u8, subsampling=subsampling, quality=quality, photoshop=photoshop)
    return decode(data).rgb_hwc


def simulate(batch_bchw: Array, qualities: Sequence[int], subsampling: Subsampling) -> Array:
    """Simulate libjpeg on pictures (B, 3, H, W) in [0, 1], each at its quality.

    Colour conversion, chroma subsampling, rounding and fancy upsampling are libjpeg's; its integer
    DCT is computed in floats, which changes a few values by a level or two.
    """
    xp = namespace(batch_bchw)
    height, width = batch_bchw.shape[-2:]
    levels = _rounded(xp.clip(batch_bchw, 0, 1) * 255)
    planes = _rounded(_convert_colours(TO_YCBCR, levels) + as_array_like(CENTRE, levels))
    down, right = {"4:4:4": (1, 1), "4:2:2": (1, 2), "4:2:0": (2, 2)}[subsampling]
    planes = _edge_padded(planes, -height % (8 * down), -width % (8 * right))
    luma = _quantised(planes[:, :1], [scaled_table(LUMA_TABLE, quality) for quality in qualities])
    chroma = _quantised(
        _downsample_chroma(planes[:, 1:], down, right),
        [scaled_table(CHROMA_TABLE, quality) for quality in qualities],
    )
    # libjpeg upsamples only the samples of the picture, not the padding.
    chroma = chroma[..., : -(-height // down), : -(-width // right)]
    chroma = _upsample_chroma(chroma, down, right)[..., :height, :width]
    planes = xp.concatenate((luma[..., :height, :width], chroma), 1)
    rgb = _rounded(_convert_colours(TO_RGB, planes - as_array_like(CENTRE, planes)))
    return xp.clip(rgb, 0, 255) / 255


def _quantised(planes_bchw: Array, tables: Sequence[npt.NDArray[np.int64]]) -> Array:
    """DCT, quantisation, dequantisation and inverse DCT of 8x8 blocks, rounded to levels."""
    xp = namespace(planes_bchw)
    table = as_array_like(
        [[np.tile(table, (1, planes_bchw.shape[-1] // 8))] for table in tables], planes_bchw
    )[:, :, None]
    basis = as_array_like(orthonormal_dct(8), planes_bchw)
    coefficients = _transform_blocks(planes_bchw - 128, basis)
    shape = coefficients.shape
    blocks = coefficients.reshape(*shape[:2], -1, 8, shape[-1]) / table
    dequantised = xp.sign(blocks) * _rounded(xp.abs(blocks)) * table
    levels = _transform_blocks(dequantised.reshape(shape), basis.T) + 128
    return xp.clip(_rounded(levels), 0, 255)


def _transform_blocks(planes_bchw: Array, basis: Array) -> Array:
    """Multiply each 8x8 block by the basis along its columns and its rows."""
    shape = planes_bchw.shape
    down = basis @ planes_bchw.reshape(*shape[:2], -1, 8, shape[-1])
    return (down.reshape(*shape[:-1], -1, 8) @ basis.T).reshape(shape)


def _downsample_chroma(planes: Array, down: int, right: int) -> Array:
    """Subsample chroma; libjpeg's bias alternates, so that rounding is unbiased."""
    if right == 1:
        return planes
    xp = namespace(planes)
    total = planes[..., 0::2] + planes[..., 1::2]
    bias = as_array_like(np.arange(total.shape[-1]) % 2, planes)
    if down == 1:
        return xp.floor((total + bias) / 2)
    return xp.floor((total[..., 0::2, :] + total[..., 1::2, :] + bias + 1) / 4)


def _upsample_chroma(planes: Array, down: int, right: int) -> Array:
    """libjpeg's fancy upsampling of chroma: 3/4 nearest sample, 1/4 next nearest."""
    if right == 1:
        return planes
    xp = namespace(planes)
    if down == 1:
        return xp.floor(_upsample_axis(planes, -1, (1, 2)) / 4)
    return xp.floor(_upsample_axis(_upsample_axis(planes, -2, (0, 0)), -1, (8, 7)) / 16)


def _upsample_axis(planes: Array, axis: int, biases: tuple[int, int]) -> Array:
    """Double the samples along an axis, each 3 * nearest + next nearest + bias."""
    xp = namespace(planes)
    length = planes.shape[axis]
    before = _take(planes, axis, np.maximum(np.arange(length) - 1, 0))
    after = _take(planes, axis, np.minimum(np.arange(length) + 1, length - 1))
    pair = (3 * planes + before + biases[0], 3 * planes + after + biases[1])
    stacked = xp.stack(pair, -1 if axis == -1 else -2)
    shape = list(planes.shape)
    shape[axis] = 2 * length
    return stacked.reshape(shape)


def _take(planes: Array, axis: int, positions: npt.NDArray[np.int64]) -> Array:
    index = as_index_like(positions, planes)
    return planes[..., index] if axis == -1 else planes[..., index, :]


def _edge_padded(planes: Array, below: int, right: int) -> Array:
    height, width = planes.shape[-2:]
    planes = _take(planes, -2, np.minimum(np.arange(height + below), height - 1))
    return _take(planes, -1, np.minimum(np.arange(width + right), width - 1))


def _convert_colours(matrix: npt.NDArray[np.float64], planes_bchw: Array) -> Array:
    xp = namespace(planes_bchw)
    return xp.einsum("ij,bjhw->bihw", as_array_like(matrix, planes_bchw), planes_bchw)


def _rounded(values: Array) -> Array:
    return namespace(values).floor(values + (0.5 + TIE_OFFSET))
