"""A planned picture's pixels, as training takes them, or the reason why it does not."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from superres.common.errors import SharplineError
from superres.common.files import sha256_bytes
from superres.image.codecs import Picture, PictureError, decode, encode
from superres.image.plain_png import plain_rgb_png
from training.data.shards.plan import MIN_LR_SIDE, PlannedPicture

Pixels = npt.NDArray[np.uint8]


class UnusablePicture(PictureError):
    """A picture that decodes but cannot teach; it is left out and named."""

    label = "unusable"


def load_hr(planned: PlannedPicture, scale: int) -> tuple[Pixels, bytes]:
    """The HR picture as RGB (H, W, 3), its sides multiples of the scale, and its PNG file.

    Raises PictureError where it cannot be used, SharplineError where it is another than planned.
    """
    data = planned_bytes(planned.path, planned.sha256)
    whole_hwc = as_rgb8(decode(data, name=planned.name))
    rgb_hwc = whole_hwc
    if planned.box is not None:
        box = planned.box
        rgb_hwc = rgb_hwc[box.top : box.top + box.height, box.left : box.left + box.width]
    if not planned.lr_path:
        height, width = (side // scale * scale for side in rgb_hwc.shape[:2])
        rgb_hwc = rgb_hwc[:height, :width]
    if min(rgb_hwc.shape[:2]) < MIN_LR_SIDE * scale:
        raise UnusablePicture(f"{rgb_hwc.shape[1]}x{rgb_hwc.shape[0]} is too small for x{scale}")
    rgb_hwc = np.ascontiguousarray(rgb_hwc)
    as_it_is = plain_rgb_png(data) if rgb_hwc.shape == whole_hwc.shape else None
    return rgb_hwc, as_it_is or encode(Picture(rgb_hwc=rgb_hwc), "png")


def as_rgb8(picture: Picture) -> Pixels:
    """The pixels in 8 bits; raises Unusable where some of them are transparent."""
    alpha_hw = picture.alpha_hw
    if alpha_hw is not None and alpha_hw.min() < np.iinfo(alpha_hw.dtype).max:
        raise UnusablePicture(
            "has transparent parts: what lies behind them is not part of the picture"
        )
    return rgb8(picture)


def rgb8(picture: Picture) -> Pixels:
    """The colours (H, W, 3) rounded to 8 bits, transparent or not."""
    if picture.rgb_hwc.dtype == np.uint16:
        return np.round(picture.rgb_hwc / 257.0).astype(np.uint8)
    return np.ascontiguousarray(picture.rgb_hwc)


def load_lr(planned: PlannedPicture, scale: int, hr_shape: tuple[int, ...]) -> Pixels:
    """The LR picture that the source gives; raises Unusable unless it fits the HR picture."""
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


def load_compared(planned: PlannedPicture) -> Pixels:
    """A picture to compare with; raises SharplineError, for a leak check with holes is none."""
    try:
        return rgb8(decode(planned_bytes(planned.path, planned.sha256)))
    except PictureError as error:
        raise SharplineError(f"cannot compare with {planned.path}: {error}") from error


def planned_bytes(path: str, sha256: str) -> bytes:
    """A file's bytes; raises SharplineError unless they are those that the plan was made with."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise SharplineError(
            f"{path} was there when the plan was made and cannot be read now "
            f"({error.strerror}); plan again"
        ) from error
    if sha256_bytes(data) != sha256:
        raise SharplineError(f"{path} has changed since the plan was made; plan again")
    return data
