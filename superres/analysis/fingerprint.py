"""Picture fingerprints: a perceptual hash of the whole, and ORB keypoints that match crops.

Near-duplicates have perceptual hashes with a small Hamming distance. ORB features (Rublee et al.
2011) are robust to cropping, rescaling, rotation and compression. OpenCV computes them in a tenth
of SIFT's time, so a picture takes less time to fingerprint than to decode.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from superres.image.dct import dct_cosines

Pixels = npt.NDArray[np.uint8]
Complex = npt.NDArray[np.complexfloating]
AffineMap = npt.NDArray[np.float64]

THUMBNAIL_SIDE, LOW_FREQUENCIES = 32, 8
LONG_SIDE = 512  # of the resized picture in which keypoints are detected
FEATURES = 1000
DESCRIPTOR_BYTES = 32
FAST_THRESHOLDS = (
    7,
    2,
)  # of a FAST corner, in levels; the second for smooth pictures with few corners at the first

MIN_INLIERS = 3
INLIER_TOLERANCE = 1 / 40  # of the extent of the keypoints

MIN_OVERLAP = 0.7  # of the smaller picture's area
MIN_AREA = 16**2  # in pixels, of the smaller picture
MIN_CORRELATION = 0.85  # of luma in the overlap
MIN_CORRELATION_SUM = 1.15  # of luma and high-pass luma: all skies correlate in luma alone
MIN_VARIANCE = 1.0  # of the levels, squared
FINE_SIGMA = 4.0
COMPARISON_SIDE = 96
ECC_ITERATIONS = 40

# Of aligned thumbnails, luma and high-pass. A JPEG or a half-size copy has 0.99 and 0.98, two
# photographs of one scene taken a step apart less than 0.95 and 0.8.
COPY_CORRELATION, COPY_FINE_CORRELATION = 0.98, 0.9


@dataclass(frozen=True, slots=True)
class Keypoints:
    """Keypoints as complex numbers: `points` are positions x + iy in pixels, `vectors` have the
    keypoint's size as length and its orientation as angle."""

    points: Complex
    vectors: Complex

    def take(self, chosen: npt.NDArray[np.intp]) -> "Keypoints":
        """The keypoints at these indices."""
        return Keypoints(self.points[chosen], self.vectors[chosen])

    @staticmethod
    def join(parts: "Sequence[Keypoints]") -> "Keypoints":
        """Concatenate keypoints."""
        none = np.empty(0, np.complex64)
        return Keypoints(
            np.concatenate([none, *(part.points for part in parts)]),
            np.concatenate([none, *(part.vectors for part in parts)]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """The perceptual hash, 64 bits; n keypoints and their descriptors, (n, 32) uint8.

    A picture without structure has no keypoints.
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
    detected, descriptors = (), None
    for threshold in FAST_THRESHOLDS:
        detector = cv2.ORB.create(nfeatures=FEATURES, fastThreshold=threshold)
        detected, descriptors = detector.detectAndCompute(sized_hw, None)
        if len(detected) >= FEATURES // 2:
            break
    if descriptors is None:
        descriptors = np.empty((0, DESCRIPTOR_BYTES), np.uint8)
    attributes = np.array([(*point.pt, point.size, point.angle) for point in detected])
    attributes = attributes.reshape(-1, 4)
    x, y, size, degrees = attributes.T
    keypoints = Keypoints(
        points=((x + 1j * y) / shrink).astype(np.complex64),
        vectors=(size / shrink * np.exp(1j * np.radians(degrees))).astype(np.complex64),
    )
    return Fingerprint(
        phash=perceptual_hash(sized_hw), keypoints=keypoints, descriptors=descriptors
    )


def mirror_image(rgb_hwc_u8: Pixels) -> Pixels:
    """The picture (H, W, 3) flipped horizontally."""
    import cv2

    flipped: Any = cv2.flip(rgb_hwc_u8, 1)
    return flipped


def thumbnail(rgb_hwc_u8: Pixels) -> Pixels:
    """The whole picture resized to a square (96, 96, 3), for `are_copies`."""
    import cv2

    side = (COMPARISON_SIDE, COMPARISON_SIDE)
    small: Any = cv2.resize(rgb_hwc_u8, side, interpolation=cv2.INTER_AREA)
    return small


def are_copies(first_hwc: Pixels, second_hwc: Pixels) -> bool:
    """Whether two thumbnails show one picture, up to compression, size and brightness.

    They are compared without alignment, so two views of one scene are not copies.
    """
    correlation = _correlation(first_hwc, second_hwc)
    fine_correlation = _correlation(_high_pass(first_hwc), _high_pass(second_hwc))
    return correlation >= COPY_CORRELATION and fine_correlation >= COPY_FINE_CORRELATION


def perceptual_hash(luma_hw_u8: Pixels) -> int:
    """The 64 low DCT frequencies of a 32x32 thumbnail, each thresholded at their median."""
    import cv2

    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    thumbnail = cv2.resize(luma_hw_u8, side, interpolation=cv2.INTER_AREA).astype(np.float64)
    dct = dct_cosines(THUMBNAIL_SIDE)
    spectrum = (dct @ thumbnail @ dct.T)[:LOW_FREQUENCIES, :LOW_FREQUENCIES].ravel()
    # The first coefficient is the mean brightness and is excluded from the median.
    bits = spectrum > np.median(spectrum[1:])
    return int("".join("1" if bit else "0" for bit in bits), 2)


def estimate_similarity(first: Keypoints, second: Keypoints) -> tuple[AffineMap, int] | None:
    """Estimate the similarity transform (2x3) between matched keypoints, and its inlier count.

    The keypoints are matched one to one, with outliers. Every pair of matches defines a transform
    (rotation, scale, translation); the one with the most inliers is refined by least squares. None
    with fewer than MIN_INLIERS inliers.
    """
    if len(first.points) < MIN_INLIERS:
        return None
    ours, theirs = _pairwise_offsets(first.points), _pairwise_offsets(second.points)
    tolerance = INLIER_TOLERANCE * float(np.abs(theirs).max()) + 1
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(np.abs(ours) > 0, theirs / ours, 0)
    # [i, j, k]: error of point k under the transform defined by points i and j.
    errors = np.abs(theirs[:, None, :] - ratios[:, :, None] * ours[:, None, :])
    inliers = (errors <= tolerance) & (np.abs(ratios) > 0)[:, :, None]
    best = np.unravel_index(inliers.sum(axis=2).argmax(), ratios.shape)
    points = np.flatnonzero(inliers[best])
    # One corner may be detected at several scales; it counts once.
    distinct = len(np.unique(np.round(second.points[points] / tolerance)))
    if distinct < MIN_INLIERS:
        return None
    return _fit_similarity(first.points[points], second.points[points]), distinct


def _fit_similarity(first: Complex, second: Complex) -> AffineMap:
    """The least-squares similarity transform from the first points to the second."""
    first_mean, second_mean = first.mean(), second.mean()
    centred = first - first_mean
    ratio = (centred.conj() * (second - second_mean)).sum() / (np.abs(centred) ** 2).sum()
    shift = second_mean - ratio * first_mean
    return np.array([[ratio.real, -ratio.imag, shift.real], [ratio.imag, ratio.real, shift.imag]])


def _pairwise_offsets(points: Complex) -> Complex:
    """Offsets from each point to each: (n, n)."""
    return points[None, :] - points[:, None]


def resize_transform(first_hwc: Pixels, second_hwc: Pixels) -> npt.NDArray[np.float64]:
    """The 2x3 transform that resizes the first picture to the second."""
    (height, width), (out_height, out_width) = first_hwc.shape[:2], second_hwc.shape[:2]
    return np.array([[out_width / width, 0, 0], [0, out_height / height, 0]])


def pictures_match(first_hwc: Pixels, second_hwc: Pixels, first_to_second: AffineMap) -> bool:
    """Whether two pictures match under a transform, or under one refined from it (ECC).

    The overlap must be most of the smaller picture. The criteria are the correlations of luma and
    of high-pass luma, so brightness and contrast may differ.
    """
    import cv2

    first_area = np.prod(first_hwc.shape[:2]) * abs(np.linalg.det(first_to_second[:, :2]))
    second_area = np.prod(second_hwc.shape[:2])
    area = min(first_area, second_area)
    if area < MIN_AREA:
        return False
    shrink = min(1.0, COMPARISON_SIDE / area**0.5)
    second_hw: Any = _resized(cv2.cvtColor(second_hwc, cv2.COLOR_RGB2GRAY), shrink)
    step = np.sqrt(abs(np.linalg.det(first_to_second[:, :2]))) * shrink
    before = min(1.0, step)  # shrink by area averaging first: warping alone would alias
    first_hw = _resized(cv2.cvtColor(first_hwc, cv2.COLOR_RGB2GRAY), before)
    full = np.vstack((first_to_second, (0, 0, 1)))
    to_small = np.diag((shrink, shrink, 1.0)) @ full @ np.diag((1 / before, 1 / before, 1.0))
    min_overlap = MIN_OVERLAP * area * shrink**2
    return _correlate_under(first_hw, second_hw, to_small[:2], min_overlap) or _correlate_under(
        first_hw, second_hw, _refine_ecc(first_hw, second_hw, to_small), min_overlap
    )


def _correlate_under(
    first_hw: Any, second_hw: Any, transform: AffineMap, min_overlap: float
) -> bool:
    import cv2

    size = second_hw.shape[::-1]
    warped: Any = cv2.warpAffine(first_hw, transform, size, flags=cv2.INTER_LINEAR)
    inside = cv2.warpAffine(np.full_like(first_hw, 255), transform, size) == 255
    if inside.sum() < min_overlap:
        return False
    correlation = _correlation(warped[inside], second_hw[inside])
    fine_correlation = _correlation(_high_pass(warped)[inside], _high_pass(second_hw)[inside])
    return correlation >= MIN_CORRELATION and correlation + fine_correlation >= MIN_CORRELATION_SUM


def _refine_ecc(first_hw: Any, second_hw: Any, transform: AffineMap) -> AffineMap:
    """Refine a transform to the affine one with the best correlation (ECC, Evangelidis 2008)."""
    import cv2

    inverse: Any = np.linalg.inv(transform)[:2].astype(np.float32)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, ECC_ITERATIONS, 1e-4)
    whole_hw = np.full_like(first_hw, 255)
    try:
        cv2.findTransformECC(second_hw, first_hw, inverse, cv2.MOTION_AFFINE, stop, whole_hw, 5)
    except cv2.error:  # ECC did not converge: different pictures
        return transform[:2]
    refined: Any = np.linalg.inv(np.vstack((inverse, (0, 0, 1))))[:2]
    return refined.astype(np.float64)


def _high_pass(levels_hw: Any) -> Any:
    """Structure smaller than a dozen pixels, of luma (H, W) or colours (H, W, 3)."""
    import cv2

    levels = levels_hw.astype(np.float32)
    return levels - cv2.GaussianBlur(levels, (0, 0), FINE_SIGMA)


def _correlation(first: Any, second: Any) -> float:
    """Pearson's correlation; for flat pictures 1 if their levels are equal, else 0."""
    ours, theirs = first.astype(np.float64), second.astype(np.float64)
    deviations = ours.std() * theirs.std()
    if deviations < MIN_VARIANCE:
        return float(np.abs(ours - theirs).mean() < 2.0)
    return float(((ours - ours.mean()) * (theirs - theirs.mean())).mean() / deviations)


def _resized(luma_hw: Any, factor: float) -> Any:
    import cv2

    height, width = (max(1, round(side * factor)) for side in luma_hw.shape)
    interpolation = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return cv2.resize(luma_hw, (width, height), interpolation=interpolation)
