"""What a picture can be recognised by: as a whole, and by its details where only a part is left.

The whole is a perceptual hash: nearly equal pictures get nearly equal hashes. The details are ORB
features (Rublee et al. 2011), which survive cropping, rescaling, turning and compression. OpenCV
finds them in a tenth of SIFT's time, so a picture costs less to fingerprint than to decode.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

THUMBNAIL_SIDE, KEPT = 32, 8
LONG_SIDE = 512  # of the picture that features are looked for in, whatever its own size
FEATURES = 1000
DESCRIPTOR_BYTES = 32
LEAST_CONTRAST = 7  # of a corner, in levels: low, so that smooth pictures have features as well

MOST_BITS = 80  # of 256 in which two descriptors of one detail differ
LEAST_MATCHES = 4
PLACE_TOLERANCE = 6 / LONG_SIDE  # of the picture's extent

LEAST_OVERLAP = 0.7  # of the smaller picture, in area, that both must show
LEAST_CORRELATION = 0.85  # of the pixels that both show
COMPARED_SIDE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """64 bits of `phash` for the whole; points (n, 2) as x, y in pixels and what they look like.

    `descriptors` is (n, 32) uint8. A picture without structure has no points.
    """

    phash: int
    points_xy: Floats
    descriptors: Pixels


def fingerprint(rgb_hwc_u8: Pixels) -> Fingerprint:
    """The fingerprint of an RGB picture (H, W, 3) of any size."""
    import cv2

    luma_hw: Any = cv2.cvtColor(rgb_hwc_u8, cv2.COLOR_RGB2GRAY)
    shrink = LONG_SIDE / max(luma_hw.shape)
    sized_hw = _resized(luma_hw, shrink)
    finder = cv2.ORB.create(nfeatures=FEATURES, fastThreshold=LEAST_CONTRAST)
    found, descriptors = finder.detectAndCompute(sized_hw, None)
    points = np.array([point.pt for point in found], np.float32).reshape(-1, 2) / np.float32(shrink)
    if descriptors is None:
        descriptors = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
    return Fingerprint(phash=perceptual_hash(luma_hw), points_xy=points, descriptors=descriptors)


def perceptual_hash(luma_hw_u8: Pixels) -> int:
    """Signs of the low DCT frequencies of a 32x32 thumbnail, 64 bits."""
    import cv2

    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = cv2.resize(luma_hw_u8, side, interpolation=cv2.INTER_AREA).astype(np.float64)
    spectrum = (_dct() @ thumbnail @ _dct().T)[:KEPT, :KEPT].ravel()
    # The first coefficient is the mean brightness: it has no part in what the picture shows.
    bits = spectrum > np.median(spectrum[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def place_of(first: Fingerprint, second: Fingerprint) -> tuple[npt.NDArray[np.float64], int] | None:
    """How the details of one picture lie in another: a 2x3 map and how many of them agree with it.

    The map turns, scales and shifts; None where hardly any details are common.
    """
    import cv2

    matcher = cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True)
    matches = [
        match
        for match in matcher.match(first.descriptors, second.descriptors)
        if match.distance <= MOST_BITS
    ]
    if len(matches) < LEAST_MATCHES:
        return None
    first_xy = first.points_xy[[match.queryIdx for match in matches]]
    second_xy = second.points_xy[[match.trainIdx for match in matches]]
    extent = float(np.ptp(second.points_xy, axis=0).max())
    found: Any
    found, agree = cv2.estimateAffinePartial2D(
        first_xy,
        second_xy,
        method=cv2.RANSAC,
        ransacReprojThreshold=max(1.0, extent * PLACE_TOLERANCE),
        maxIters=2000,
    )
    return None if found is None else (found, int(agree.sum()))


def whole_onto(first_hwc: Pixels, second_hwc: Pixels) -> npt.NDArray[np.float64]:
    """The 2x3 map that lays the first picture exactly over the second."""
    (height, width), (out_height, out_width) = first_hwc.shape[:2], second_hwc.shape[:2]
    return np.array([[out_width / width, 0, 0], [0, out_height / height, 0]])


def show_the_same(
    first_hwc: Pixels, second_hwc: Pixels, first_to_second: npt.NDArray[np.float64]
) -> bool:
    """Whether two pictures look alike where the map lays the first over the second.

    They must share most of the smaller one. Brightness and contrast may differ, colours may not by
    much: a luma correlation is what decides.
    """
    import cv2

    first_area = np.prod(first_hwc.shape[:2]) * abs(np.linalg.det(first_to_second[:, :2]))
    second_area = np.prod(second_hwc.shape[:2])
    shrink = min(1.0, COMPARED_SIDE / max(second_hwc.shape[:2]))
    if first_area < second_area:
        shrink = min(1.0, COMPARED_SIDE / max(first_area**0.5, 1.0))
    second_hw: Any = _resized(cv2.cvtColor(second_hwc, cv2.COLOR_RGB2GRAY), shrink)
    size = second_hw.shape[::-1]
    step = np.sqrt(abs(np.linalg.det(first_to_second[:, :2]))) * shrink
    before = min(1.0, step)  # shrunk by area first, for warping alone would alias
    first_hw = _resized(cv2.cvtColor(first_hwc, cv2.COLOR_RGB2GRAY), before)
    full = np.vstack((first_to_second, (0, 0, 1)))
    to_small = np.diag((shrink, shrink, 1.0)) @ full @ np.diag((1 / before, 1 / before, 1.0))
    warped: Any = cv2.warpAffine(first_hw, to_small[:2], size, flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.full_like(first_hw, 255), to_small[:2], size) == 255
    shared = inside.sum() / (shrink**2 * min(first_area, second_area))
    return bool(shared >= LEAST_OVERLAP and _alike(warped[inside], second_hw[inside]))


def _alike(first: Pixels, second: Pixels) -> bool:
    """Pearson's correlation; of flat pictures, whether their levels are the same."""
    first_levels, second_levels = first.astype(np.float64), second.astype(np.float64)
    deviations = first_levels.std() * second_levels.std()
    if deviations < 1.0:
        return bool(np.abs(first_levels - second_levels).mean() < 2.0)
    covariance = (
        (first_levels - first_levels.mean()) * (second_levels - second_levels.mean())
    ).mean()
    return bool(covariance / deviations >= LEAST_CORRELATION)


def _resized(luma_hw: Any, factor: float) -> Any:
    import cv2

    height, width = (max(1, round(side * factor)) for side in luma_hw.shape)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(luma_hw, (width, height), interpolation=way)


@cache
def _dct() -> npt.NDArray[np.float64]:
    rows, columns = np.mgrid[:THUMBNAIL_SIDE, :THUMBNAIL_SIDE]
    return np.cos(math.pi * rows * (2 * columns + 1) / (2 * THUMBNAIL_SIDE))
