"""`mae`: the mean absolute error in grey levels of 255."""

import numpy as np

from superres.quality.channels import to_protocol
from superres.quality.metric import Array, Metric, without_weights
from superres.quality.protocol import Protocol


def mae(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
    """Of two pictures (H, W, 3) under a protocol; 0 is equal."""
    difference = to_protocol(test_hwc, protocol) - to_protocol(truth_hwc, protocol)
    return float(np.abs(difference).mean())


METRIC = without_weights(
    Metric(name="mae", title="MAE", better="lower", variant="8-bit levels", compute=mae)
)
