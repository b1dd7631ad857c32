"""DISTS (Ding et al. 2020): structure and texture similarity of deep features, 0 is equal.

VGG16 with blurred instead of max pooling; for every channel of every stage, including the picture
itself, the similarity of the means (texture) and the correlation (structure), with weights fitted
to human judgements. Pictures are compared at their own size.
"""

# torch's stubs are incomplete:
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from superres.quality.features import (
    CHANNELS,
    Features,
    device,
    load_trunk,
    read_weights,
    unit_bchw,
)
from superres.quality.metric import Metric, MetricUnavailable, QualityMetric, weights_needed
from superres.quality.protocol import Protocol

Array = NDArray[Any]

WEIGHTS_FILE = "dists.pt"
WEIGHTS_URL = "https://github.com/dingkeyan93/DISTS/raw/master/DISTS_pytorch/weights.pt"
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STAGES = (3, *CHANNELS["vgg"])
C1 = C2 = 1e-6


class BlurredPooling(nn.Module):
    """Root of the Hann-weighted mean of squares over 3x3 pixels, every second kept."""

    taps: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        hann = torch.tensor([0.5, 1.0, 0.5])
        taps = torch.outer(hann, hann) / hann.sum() ** 2
        self.register_buffer("taps", taps.expand(channels, 1, 3, 3).clone())

    def forward(self, bchw: Tensor) -> Tensor:
        squares = functional.conv2d(bchw**2, self.taps, stride=2, padding=1, groups=bchw.shape[1])
        return (squares + 1e-12).sqrt()


class Dists(nn.Module):
    """The distance of two batches (B, 3, H, W) in [0, 1], one value per pair: (B,).

    `alpha` and `beta` weight texture and structure of all channels of all stages: (1475,) each.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, trunk: Features, alpha: Tensor, beta: Tensor) -> None:
        super().__init__()
        self.trunk = trunk
        whole = alpha.sum() + beta.sum()
        self.alpha = nn.Parameter(alpha / whole, requires_grad=False)
        self.beta = nn.Parameter(beta / whole, requires_grad=False)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1))

    @torch.inference_mode()
    def forward(self, test_bchw: Tensor, truth_bchw: Tensor) -> Tensor:
        stages = zip(
            self.alpha.split(STAGES),
            self.beta.split(STAGES),
            self._stages(test_bchw),
            self._stages(truth_bchw),
            strict=True,
        )
        similarities = [
            _texture(test, truth) @ alpha + _structure(test, truth) @ beta
            for alpha, beta, test, truth in stages
        ]
        return 1 - torch.stack(similarities).sum(dim=0)

    def _stages(self, bchw: Tensor) -> list[Tensor]:
        return [bchw, *self.trunk((bchw - self.mean) / self.deviation)]


def _texture(test: Tensor, truth: Tensor) -> Tensor:
    """Similarity of the means of each channel: (B, C)."""
    ours, theirs = test.mean(dim=(2, 3)), truth.mean(dim=(2, 3))
    return (2 * ours * theirs + C1) / (ours**2 + theirs**2 + C1)


def _structure(test: Tensor, truth: Tensor) -> Tensor:
    """Correlation of each channel over positions: (B, C)."""
    ours = test - test.mean(dim=(2, 3), keepdim=True)
    theirs = truth - truth.mean(dim=(2, 3), keepdim=True)
    covariance = (ours * theirs).mean(dim=(2, 3))
    variances = (ours**2).mean(dim=(2, 3)) + (theirs**2).mean(dim=(2, 3))
    return (2 * covariance + C2) / (variances + C2)


def load_dists(weights: Path) -> Metric:
    """DISTS with the weights in a folder. Raises MetricUnavailable naming the missing file."""
    trunk, trunk_digest = load_trunk(weights, "vgg", BlurredPooling)
    stored, digest = read_weights(weights / WEIGHTS_FILE, WEIGHTS_URL)
    try:
        alpha, beta = (stored[name].float().reshape(sum(STAGES)) for name in ("alpha", "beta"))
    except (KeyError, RuntimeError) as error:
        raise MetricUnavailable(
            f"{weights / WEIGHTS_FILE} does not hold DISTS's weights ({error}); "
            f"download {WEIGHTS_URL}"
        ) from error
    network = Dists(trunk, alpha, beta).to(device()).eval()

    def compute(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
        return float(network(unit_bchw(test_hwc, protocol), unit_bchw(truth_hwc, protocol)))

    return Metric(
        name="dists",
        title="DISTS",
        better="lower",
        variant=f"Ding 2020, own size, weights {digest} on {trunk_digest}",
        compute=compute,
        colour=True,
    )


METRIC = QualityMetric(
    name="dists", load=lambda weights: load_dists(weights_needed("DISTS", weights))
)
