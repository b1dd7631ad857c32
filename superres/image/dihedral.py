"""The eight dihedral symmetries of a square picture, at the speed of a copy.

OpenCV transposes three-byte pixels in a twentieth of numpy's time, which would otherwise dominate
the cost of a training crop.
"""

import numpy as np
import numpy.typing as npt

SYMMETRIES = 8

Pixels = npt.NDArray[np.uint8]


def write_symmetry(square_hwc: Pixels, symmetry: int, out_hwc: Pixels) -> None:
    """Write a square (P, P, 3), rotated by `symmetry % 4` left quarter turns, mirrored if >= 4.

    The rotation comes first. `out_hwc` is contiguous and of the same shape; `symmetry` is 0 to 7.
    """
    import cv2

    if not 0 <= symmetry < SYMMETRIES:
        raise ValueError(f"a square has symmetries 0 to {SYMMETRIES - 1}, not {symmetry}")
    upside_down = symmetry in (3, 5, 6)
    rows_hwc = square_hwc[::-1] if upside_down else square_hwc
    if symmetry in (0, 6):
        out_hwc[:] = rows_hwc
        return
    # Copy rows first: OpenCV reads along columns, which is slow with a large, uncached stride.
    copy_hwc = np.empty_like(out_hwc)
    copy_hwc[:] = rows_hwc
    match symmetry:
        case 3 | 7:
            cv2.transpose(copy_hwc, dst=out_hwc)
        case 1 | 5:
            cv2.rotate(copy_hwc, cv2.ROTATE_90_COUNTERCLOCKWISE, dst=out_hwc)
        case 2:
            cv2.rotate(copy_hwc, cv2.ROTATE_180, dst=out_hwc)
        case _:
            cv2.flip(copy_hwc, 1, dst=out_hwc)
