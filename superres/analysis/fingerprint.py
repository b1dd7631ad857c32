"""What a picture can be recognised by: as a whole, and by its details where only a part is left.

The whole is a perceptual hash: nearly equal pictures get nearly equal hashes. The details are ORB
features (Rublee et al. 2011), which survive cropping, rescaling, turning and compression. OpenCV
finds them in a tenth of SIFT's time, so a picture costs less to fingerprint than to decode.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Complex = npt.NDArray[np.complexfloating]
Map = npt.NDArray[np.float64]

THUMBNAIL_SIDE, KEPT = 32, 8
LONG_SIDE = 512  # of the picture that features are looked for in, whatever its own size
FEATURES = 1000
DESCRIPTOR_BYTES = 32
CONTRASTS = (
    7,
    2,
)  # of a corner, in levels; the second for smooth pictures, in which few have the first

MAX_BITS = 80  # of 256 in which two descriptors of one detail differ
MIN_AGREEING = 3
PLACE_TOLERANCE = 1 / 40  # of the extent of the details

MIN_OVERLAP = 0.7  # of the smaller picture, in area, that both must show
MIN_AREA = 16**2  # in pixels, of what is compared: that of the smallest pictures
MIN_CORRELATION = 0.85  # of the pixels that both show
MIN_OF_BOTH = 1.15  # with that of the fine structure added: skies are alike without
MIN_DEVIATION = 1.0  # of the levels, squared
FINE_SIGMA = 4.0
COMPARED_SIDE = 96
REFINING_STEPS = 40

# Of pictures laid over each other as they are. A JPEG or a half-size copy has 0.99 and 0.98, two
# views of a thing, taken a step apart, less than 0.95 and 0.8.
COPY_CORRELATION, COPY_FINE_CORRELATION = 0.98, 0.9


@dataclass(frozen=True, slots=True)
class Keypoints:
    """Where details lie and how they are turned, as complex numbers: x + iy in pixels, and an arm
    as long as the detail is large that points where it does."""

    points: Complex
    arms: Complex

    def take(self, chosen: npt.NDArray[np.intp]) -> "Keypoints":
        """Those at these positions."""
        return Keypoints(self.points[chosen], self.arms[chosen])

    @staticmethod
    def join(parts: "Sequence[Keypoints]") -> "Keypoints":
        """Those of all parts, one after the other."""
        none = np.empty(0, np.complex64)
        return Keypoints(
            np.concatenate([none, *(part.points for part in parts)]),
            np.concatenate([none, *(part.arms for part in parts)]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """64 bits of `phash` for the whole; n details, and what each looks like, (n, 32) uint8.

    A picture without structure has no details.
    """

    phash: int
    keypoints: Keypoints
    descriptors: Pixels


def fingerprint(rgb_hwc_u8: Pixels) -> Fingerprint:
    """The fingerprint of an RGB picture (H, W, 3) of any size."""
    import cv2

    luma_hw: Any = cv2.cvtColor(rgb_hwc_u8, cv2.COLOR_RGB2GRAY)
    shrink = LONG_SIDE / max(luma_hw.shape)
    sized_hw = _resized(luma_hw, shrink)
    found, descriptors = (), None
    for contrast in CONTRASTS:
        finder = cv2.ORB.create(nfeatures=FEATURES, fastThreshold=contrast)
        found, descriptors = finder.detectAndCompute(sized_hw, None)
        if len(found) >= FEATURES // 2:
            break
    if descriptors is None:
        descriptors = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
    places = np.array([(*point.pt, point.size, point.angle) for point in found]).reshape(-1, 4)
    x, y, size, degrees = places.T
    keypoints = Keypoints(
        points=((x + 1j * y) / shrink).astype(np.complex64),
        arms=(size / shrink * np.exp(1j * np.radians(degrees))).astype(np.complex64),
    )
    return Fingerprint(
        phash=perceptual_hash(sized_hw), keypoints=keypoints, descriptors=descriptors
    )


def mirror_image(rgb_hwc_u8: Pixels) -> Pixels:
    """The picture (H, W, 3) with left and right swapped."""
    import cv2

    flipped: Any = cv2.flip(rgb_hwc_u8, 1)
    return flipped


def thumbnail(rgb_hwc_u8: Pixels) -> Pixels:
    """The whole picture on a small square (96, 96, 3), to be compared by `are_copies`."""
    import cv2

    side = (COMPARED_SIDE, COMPARED_SIDE)
    small: Any = cv2.resize(rgb_hwc_u8, side, interpolation=cv2.INTER_AREA)
    return small


def are_copies(first_hwc: Pixels, second_hwc: Pixels) -> bool:
    """Whether two thumbnails are of one picture, compressed, resized, brighter or darker.

    They are laid over each other as they are, so two views of one scene are none.
    """
    alike = _correlation(first_hwc, second_hwc)
    fine = _correlation(_fine(first_hwc), _fine(second_hwc))
    return alike >= COPY_CORRELATION and fine >= COPY_FINE_CORRELATION


def perceptual_hash(luma_hw_u8: Pixels) -> int:
    """Signs of the low DCT frequencies of a 32x32 thumbnail, 64 bits."""
    import cv2

    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = cv2.resize(luma_hw_u8, side, interpolation=cv2.INTER_AREA).astype(np.float64)
    spectrum = (_dct() @ thumbnail @ _dct().T)[:KEPT, :KEPT].ravel()
    # The first coefficient is the mean brightness: it has no part in what the picture shows.
    bits = spectrum > np.median(spectrum[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def place_of(first: Keypoints, second: Keypoints) -> tuple[Map, int] | None:
    """How details of one picture lie in another: a 2x3 map, and how many of them agree with it.

    The details are matched one to one, some of them wrongly. The map turns, scales and shifts, and
    is that of all which two of them define with which most agree; None where fewer than three do.
    """
    if len(first.points) < MIN_AGREEING:
        return None
    ours, theirs = _differences(first.points), _differences(second.points)
    tolerance = PLACE_TOLERANCE * float(np.abs(theirs).max()) + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.abs(ours) > 0, theirs / ours, 0)
    # [i, j, k]: how far point k is from where the map through i and j lays it.
    far = np.abs(theirs[:, None, :] - ratios[:, :, None] * ours[:, None, :])
    agree = (far <= tolerance) & (np.abs(ratios) > 0)[:, :, None]
    best = np.unravel_index(agree.sum(axis=2).argmax(), ratios.shape)
    points = np.flatnonzero(agree[best])
    # Points on one spot are one detail, found at several sizes.
    spots = len(np.unique(np.round(second.points[points] / tolerance)))
    if spots < MIN_AGREEING:
        return None
    return _fitted(first.points[points], second.points[points]), spots


def _fitted(first: Complex, second: Complex) -> Map:
    """The map that lays the first points onto the second ones with the least squares."""
    middle, onto = first.mean(), second.mean()
    spread = first - middle
    ratio = (spread.conj() * (second - onto)).sum() / (np.abs(spread) ** 2).sum()
    shift = onto - ratio * middle
    return np.array([[ratio.real, -ratio.imag, shift.real], [ratio.imag, ratio.real, shift.imag]])


def _differences(points: Complex) -> Complex:
    """From each to each: (n, n)."""
    return points[None, :] - points[:, None]


def whole_onto(first_hwc: Pixels, second_hwc: Pixels) -> npt.NDArray[np.float64]:
    """The 2x3 map that lays the first picture exactly over the second."""
    (height, width), (out_height, out_width) = first_hwc.shape[:2], second_hwc.shape[:2]
    return np.array([[out_width / width, 0, 0], [0, out_height / height, 0]])


def show_the_same(first_hwc: Pixels, second_hwc: Pixels, first_to_second: Map) -> bool:
    """Whether two pictures look alike where the map, or one near it, lays the first on the second.

    They must share most of the smaller one. Brightness and contrast may differ, colours may not by
    much: luma correlations decide, of the levels and of their fine structure.
    """
    import cv2

    first_area = np.prod(first_hwc.shape[:2]) * abs(np.linalg.det(first_to_second[:, :2]))
    second_area = np.prod(second_hwc.shape[:2])
    area = min(first_area, second_area)
    if area < MIN_AREA:
        return False
    shrink = min(1.0, COMPARED_SIDE / area**0.5)
    second_hw: Any = _resized(cv2.cvtColor(second_hwc, cv2.COLOR_RGB2GRAY), shrink)
    step = np.sqrt(abs(np.linalg.det(first_to_second[:, :2]))) * shrink
    before = min(1.0, step)  # shrunk by area first, for warping alone would alias
    first_hw = _resized(cv2.cvtColor(first_hwc, cv2.COLOR_RGB2GRAY), before)
    full = np.vstack((first_to_second, (0, 0, 1)))
    to_small = np.diag((shrink, shrink, 1.0)) @ full @ np.diag((1 / before, 1 / before, 1.0))
    least = MIN_OVERLAP * area * shrink**2
    return _agree(first_hw, second_hw, to_small[:2], least) or _agree(
        first_hw, second_hw, _refined(first_hw, second_hw, to_small), least
    )


def _agree(first_hw: Any, second_hw: Any, place: Map, least: float) -> bool:
    import cv2

    size = second_hw.shape[::-1]
    warped: Any = cv2.warpAffine(first_hw, place, size, flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.full_like(first_hw, 255), place, size) == 255
    if inside.sum() < least:
        return False
    alike = _correlation(warped[inside], second_hw[inside])
    fine = _correlation(_fine(warped)[inside], _fine(second_hw)[inside])
    return alike >= MIN_CORRELATION and alike + fine >= MIN_OF_BOTH


def _refined(first_hw: Any, second_hw: Any, place: Map) -> Map:
    """The affine map near this one at which the pictures correlate best (Evangelidis 2008)."""
    import cv2

    found: Any = np.linalg.inv(place)[:2].astype(np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, REFINING_STEPS, 1e-4)
    whole_hw = np.full_like(first_hw, 255)
    try:
        cv2.findTransformECC(second_hw, first_hw, found, cv2.MOTION_AFFINE, stop, whole_hw, 5)
    except cv2.error:  # nothing to go by: they show different things
        return place[:2]
    refined: Any = np.linalg.inv(np.vstack((found, (0, 0, 1))))[:2]
    return refined.astype(np.float64)


def _fine(levels_hw: Any) -> Any:
    """What is smaller than a dozen pixels; of luma (H, W) or colours (H, W, 3)."""
    import cv2

    levels = levels_hw.astype(np.float32)
    return levels - cv2.GaussianBlur(levels, (0, 0), FINE_SIGMA)


def _correlation(first: Any, second: Any) -> float:
    """Pearson's; of flat pictures 1 or 0, by whether their levels are the same."""
    ours, theirs = first.astype(np.float64), second.astype(np.float64)
    deviations = ours.std() * theirs.std()
    if deviations < MIN_DEVIATION:
        return float(np.abs(ours - theirs).mean() < 2.0)
    return float(((ours - ours.mean()) * (theirs - theirs.mean())).mean() / deviations)


def _resized(luma_hw: Any, factor: float) -> Any:
    import cv2

    height, width = (max(1, round(side * factor)) for side in luma_hw.shape)
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(luma_hw, (width, height), interpolation=way)


@cache
def _dct() -> npt.NDArray[np.float64]:
    rows, columns = np.mgrid[:THUMBNAIL_SIDE, :THUMBNAIL_SIDE]
    return np.cos(math.pi * rows * (2 * columns + 1) / (2 * THUMBNAIL_SIDE))
