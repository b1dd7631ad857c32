"""Conversion from a picture's ICC profile to sRGB, at its own bit depth."""

from dataclasses import replace

import numpy as np

from superres.image.picture import Array, BrokenPicture, Picture


def to_srgb(picture: Picture) -> Picture:
    """Convert a picture to sRGB without a profile, which every viewer assumes.

    A picture without a profile is assumed to be sRGB. Bit depth and grey are kept. Raises
    BrokenPicture if the profile cannot be used.
    """
    if picture.icc is None:
        return picture
    samples = picture.rgb_hwc[..., :1] if picture.grey else picture.rgb_hwc
    rgb_hwc = _converted(np.ascontiguousarray(samples), picture.icc, picture.bit_depth)
    if picture.grey:
        rgb_hwc = np.repeat(rgb_hwc[..., 1:2], 3, axis=2)
    return replace(picture, rgb_hwc=rgb_hwc, icc=None)


def _converted(samples_hwc: Array, icc: bytes, depth: int) -> Array:
    import pyvips

    image = pyvips.Image.new_from_array(samples_hwc)
    kinds = {(1, 8): "b-w", (3, 8): "srgb", (1, 16): "grey16", (3, 16): "rgb16"}
    image = image.copy(interpretation=kinds[samples_hwc.shape[2], depth])
    image.set_type(pyvips.GValue.blob_type, "icc-profile-data", icc)  # type: ignore[arg-type]
    try:
        # Through Lab in floats: a direct transform from 16 bits to 16 uses a lookup table that is
        # off by several of 255 levels in dark saturated colours.
        lab = image.icc_import(embedded=True, intent="relative", pcs="lab")
        converted = lab.icc_export(output_profile="srgb", intent="relative", depth=depth)
        return np.atleast_3d(converted.numpy()).astype(samples_hwc.dtype, copy=False)
    except pyvips.Error as error:
        raise BrokenPicture(
            "the picture's ICC profile cannot be converted to sRGB; use icc=keep"
        ) from error
