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

    match turn:
        case 0:
            out_hwc[:] = square_hwc
        case 1:
            cv2.rotate(square_hwc, cv2.ROTATE_90_COUNTERCLOCKWISE, dst=out_hwc)
        case 2:
            cv2.rotate(square_hwc, cv2.ROTATE_180, dst=out_hwc)
        case 3:
            cv2.rotate(square_hwc, cv2.ROTATE_90_CLOCKWISE, dst=out_hwc)
        case 4:
            cv2.flip(square_hwc, 1, dst=out_hwc)
        case 5:
            cv2.transpose(cv2.rotate(square_hwc, cv2.ROTATE_180), dst=out_hwc)
        case 6:
            cv2.flip(square_hwc, 0, dst=out_hwc)
        case 7:
            cv2.transpose(square_hwc, dst=out_hwc)
        case _:
            raise ValueError(f"a square has symmetries 0 to {SYMMETRIES - 1}, not {turn}")
