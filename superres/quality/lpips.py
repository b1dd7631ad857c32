"""LPIPS 0.1 (Zhang et al. 2018): distance of two pictures in deep features, 0 is equal.

Features of a classification network, normalised to unit length at each position; their squared
differences with channel weights fitted to human judgements, averaged over positions and summed over
stages.
"""

# torch's stubs are incomplete:
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from superres.quality.features import (
    CHANNELS,
    Features,
    Trunk,
    device,
    load_trunk,
    read_weights,
    unit_bchw,
)
from superres.quality.metric import Metric, MetricUnavailable, QualityMetric, weights_needed
from superres.quality.protocol import Protocol

Array = NDArray[Any]

LINEAR_FILES: dict[Trunk, str] = {"alex": "lpips_alex.pth", "vgg": "lpips_vgg.pth"}
LINEAR_URL = "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/"
# ImageNet's mean and deviation as the authors apply them, to values in [-1, 1].
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
MIN_LENGTH = 1e-10


class Lpips(nn.Module):
    """The distance of two batches (B, 3, H, W) in [0, 1], one value per pair: (B,).

    `linear` holds the channels' weights of each stage, (channels,) and at least 0.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, trunk: Features, linear: list[Tensor]) -> None:
        super().__init__()
        self.trunk = trunk
        self.linear = nn.ParameterList(
            [nn.Parameter(weights, requires_grad=False) for weights in linear]
        )
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))

    @torch.inference_mode()
    def forward(self, test_bchw: Tensor, truth_bchw: Tensor) -> Tensor:
        stages = zip(self.linear, self._stages(test_bchw), self._stages(truth_bchw), strict=True)
        parts = [
            torch.einsum("bchw,c->bhw", (test - truth) ** 2, weights).mean(dim=(1, 2))
            for weights, test, truth in stages
        ]
        return torch.stack(parts).sum(dim=0)

    def _stages(self, bchw: Tensor) -> list[Tensor]:
        stages = self.trunk((2 * bchw - 1 - self.shift) / self.scale)
        return [
            stage / (stage.square().sum(dim=1, keepdim=True).sqrt() + MIN_LENGTH)
            for stage in stages
        ]


def load_lpips(weights: Path, trunk: Trunk) -> Metric:
    """LPIPS with the weights in a folder. Raises MetricUnavailable naming the missing file."""
    features, trunk_digest = load_trunk(weights, trunk)
    path = weights / LINEAR_FILES[trunk]
    url = f"{LINEAR_URL}{trunk}.pth"
    stored, digest = read_weights(path, url)
    try:
        linear = [
            stored[f"lin{stage}.model.1.weight"].float().reshape(channels)
            for stage, channels in enumerate(CHANNELS[trunk])
        ]
    except (KeyError, RuntimeError) as error:
        raise MetricUnavailable(
            f"{path} does not hold LPIPS's weights for {trunk} ({error}); download {url}"
        ) from error
    network = Lpips(features, linear).to(device()).eval()

    def compute(test_hwc: Array, truth_hwc: Array, protocol: Protocol) -> float:
        return float(network(unit_bchw(test_hwc, protocol), unit_bchw(truth_hwc, protocol)))

    return Metric(
        name="lpips" if trunk == "alex" else "lpips_vgg",
        title="LPIPS" if trunk == "alex" else "LPIPS (VGG)",
        better="lower",
        variant=f"Zhang 2018 v0.1, {trunk}, weights {digest} on {trunk_digest}",
        compute=compute,
        colour=True,
    )


METRIC = QualityMetric(
    name="lpips", load=lambda weights: load_lpips(weights_needed("LPIPS", weights), "alex")
)
