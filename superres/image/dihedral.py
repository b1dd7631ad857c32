"""The eight symmetries of a square picture, at the speed of a copy.

OpenCV's transposition of three-byte pixels takes a twentieth of numpy's time, which would
otherwise be most of what a training crop costs.
"""

import numpy as np
import numpy.typing as npt

SYMMETRIES = 8

Pixels = npt.NDArray[np.uint8]


def write_symmetry(square_hwc: Pixels, turn: int, out_hwc: Pixels) -> None:
    """Write a square (P, P, 3), turned left `turn % 4` times and then mirrored if `turn` >= 4.

    `out_hwc` is contiguous and of the same shape; `turn` is 0 to 7.
    """
    import cv2

    if not 0 <= turn < SYMMETRIES:
        raise ValueError(f"a square has symmetries 0 to {SYMMETRIES - 1}, not {turn}")
    upside_down = turn in (3, 5, 6)
    rows_hwc = square_hwc[::-1] if upside_down else square_hwc
    if turn in (0, 6):
        out_hwc[:] = rows_hwc
        return
    # Row by row first: OpenCV goes along columns, slowly where they lie far apart and uncached.
    near_hwc = np.empty_like(out_hwc)
    near_hwc[:] = rows_hwc
    match turn:
        case 3 | 7:
            cv2.transpose(near_hwc, dst=out_hwc)
        case 1 | 5:
            cv2.rotate(near_hwc, cv2.ROTATE_90_COUNTERCLOCKWISE, dst=out_hwc)
        case 2:
            cv2.rotate(near_hwc, cv2.ROTATE_180, dst=out_hwc)
        case _:
            cv2.flip(near_hwc, 1, dst=out_hwc)
