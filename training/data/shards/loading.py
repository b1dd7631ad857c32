"""Loads the pixels of a planned picture, or raises the reason why it cannot be used."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes
from superres.image.codecs import Picture, PictureError, decode, encode
from superres.image.picture import as_8_bits
from superres.image.plain_png import plain_rgb_png
from training.data.shards.plan import MIN_LR_SIDE, PlannedPicture

Pixels = npt.NDArray[np.uint8]


class UnusablePicture(PictureError):
    """A picture that decodes but cannot be trained on; it is left out."""

    label = "unusable"


def load_hr(planned: PlannedPicture, scale: int) -> tuple[Pixels, bytes]:
    """The HR picture as RGB (H, W, 3), its sides multiples of the scale, and its PNG bytes.

    Raises PictureError where it cannot be used, SharplineError where it has changed since the plan.
    """
    data = planned_bytes(planned.path, planned.sha256)
    full_hwc = as_rgb8(decode(data, name=planned.name))
    rgb_hwc = full_hwc
    if planned.box is not None:
        box = planned.box
        rgb_hwc = rgb_hwc[box.top : box.top + box.height, box.left : box.left + box.width]
    if not planned.lr_path:
        height, width = (side // scale * scale for side in rgb_hwc.shape[:2])
        rgb_hwc = rgb_hwc[:height, :width]
    if min(rgb_hwc.shape[:2]) < MIN_LR_SIDE * scale:
        raise UnusablePicture(f"{rgb_hwc.shape[1]}x{rgb_hwc.shape[0]} is too small for x{scale}")
    rgb_hwc = np.ascontiguousarray(rgb_hwc)
    original_png = plain_rgb_png(data) if rgb_hwc.shape == full_hwc.shape else None
    return rgb_hwc, original_png or encode(Picture(rgb_hwc=rgb_hwc), "png")


def as_rgb8(picture: Picture) -> Pixels:
    """The pixels in 8 bits; raises UnusablePicture where some of them are transparent."""
    alpha_hw = picture.alpha_hw
    if alpha_hw is not None and alpha_hw.min() < np.iinfo(alpha_hw.dtype).max:
        raise UnusablePicture("has transparent parts, whose background is unknown")
    return rgb8(picture)


def rgb8(picture: Picture) -> Pixels:
    """The colours (H, W, 3) rounded to 8 bits, transparent or not."""
    if picture.rgb_hwc.dtype == np.uint16:
        return as_8_bits(picture.rgb_hwc)
    return np.ascontiguousarray(picture.rgb_hwc)


def load_lr(planned: PlannedPicture, scale: int, hr_shape: tuple[int, ...]) -> Pixels:
    """The LR picture that the source provides; raises UnusablePicture unless it fits the HR."""
    data = planned_bytes(planned.lr_path, planned.lr_sha256)
    try:
        lr_hwc = as_rgb8(decode(data))
    except PictureError as error:
        raise UnusablePicture(f"its low-resolution picture cannot be used: {error}") from error
    (height, width), (hr_height, hr_width) = lr_hwc.shape[:2], hr_shape[:2]
    if (height * scale, width * scale) != (hr_height, hr_width):
        raise UnusablePicture(
            f"the pair is not x{scale}: its low-resolution picture is {width}x{height} and "
            f"the high-resolution one {hr_width}x{hr_height}"
        )
    return lr_hwc


def load_reference(planned: PlannedPicture) -> Pixels:
    """A reference picture; raises SharplineError, because a leak check must not skip any."""
    try:
        return rgb8(decode(planned_bytes(planned.path, planned.sha256)))
    except PictureError as error:
        raise SharplineError(f"cannot compare with {planned.path}: {error}") from error


def planned_bytes(path: str, sha256: str) -> bytes:
    """A file's bytes; raises SharplineError where they have changed since the plan."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SharplineError(
            f"{path} can no longer be read ({error.strerror}); plan again"
        ) from error
    if sha256_bytes(data) != sha256:
        raise SharplineError(f"{path} has changed since the plan was made; plan again")
    return data
