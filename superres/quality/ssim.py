"""SSIM as in the super-resolution literature."""

from typing import Any, cast

from numpy.typing import NDArray

from superres.common.errors import SharplineError
from superres.quality.channels import to_protocol
from superres.quality.metric import Metric, without_weights
from superres.quality.protocol import SSIM_VARIANT, Protocol

Array = NDArray[Any]


def ssim(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window of sigma 1.5, per channel.

    Raises SharplineError for pictures smaller than the window after cropping.
    """
    # scikit-image has no type annotations, and its return type depends on the options.
    from skimage.metrics import (
        structural_similarity,  # pyright: ignore[reportUnknownVariableType]
    )

    test, truth = to_protocol(test_hwc, protocol), to_protocol(truth_hwc, protocol)
    if min(test.shape[:2]) < 11:
        raise SharplineError(
            f"SSIM needs at least 11x11 pixels inside the border crop of {protocol.border}; "
            f"this picture leaves {test.shape[1]}x{test.shape[0]}"
        )
    value = structural_similarity(  # pyright: ignore[reportUnknownVariableType] - likewise
        test,
        truth,
        data_range=255.0,
        channel_axis=2,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
    )
    return float(cast(float, value))


SSIM = Metric(name="ssim", title="SSIM", better="higher", variant=SSIM_VARIANT, compute=ssim)
METRIC = without_weights(SSIM)
