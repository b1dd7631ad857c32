"""L1 between VGG19 features before the activation (Johnson et al. 2016, with ESRGAN's features).

The weights are a local file of torchvision's.
"""

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from superres.common.errors import UsageError
from superres.quality.features import read_weights, vgg
from superres.quality.metric import MetricUnavailable
from training.losses.loss import Loss, LossInputs, LossSettings, LossTerm

VGG_VARIABLE = "SHARPLINE_VGG19"
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# Configuration E of Simonyan and Zisserman 2015: convolutions of each block.
VGG19 = (2, 2, 4, 4, 4)
LAYERS = tuple(
    f"conv{block}_{number}"
    for block, count in enumerate(VGG19, start=1)
    for number in range(1, count + 1)
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PerceptualSettings(LossSettings):
    """`layers` maps layers to weights; `vgg` is the path of torchvision's weight file, null uses
    SHARPLINE_VGG19."""

    layers: dict[str, float] = Field(min_length=1)
    vgg: str | None


class VggFeatures(nn.Module):
    """Features before the activation, by layer (conv1_1 ... conv5_4), of pictures in [0, 1].

    Frozen; only the layers up to the last requested one are built.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: Collection[str]) -> None:
        super().__init__()
        modules, convolutions = vgg(VGG19, until=layers)
        self._taps = {convolutions[name]: name for name in layers}
        # State-dict keys are torchvision's, so its weight file loads.
        self.features = nn.Sequential(*modules)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(False)

    def forward(self, bchw: Tensor) -> dict[str, Tensor]:
        values, outputs = (bchw - self.mean) / self.std, {}
        for index, module in enumerate(self.features):
            values = module(values)
            if index in self._taps:
                outputs[self._taps[index]] = values.float()
        return outputs


def perceptual(
    features: Callable[[Tensor], Mapping[str, Tensor]],
    output_bchw: Tensor,
    hr_bchw: Tensor,
    layers: Mapping[str, float],
) -> Tensor:
    """The weighted sum of each layer's L1."""
    with torch.no_grad():
        target = features(hr_bchw)
    ours = features(output_bchw)
    return sum(
        (weight * functional.l1_loss(ours[name], target[name]) for name, weight in layers.items()),
        start=output_bchw.new_zeros(()),
    )


def weight_file(settings: PerceptualSettings) -> Path:
    """The weight file of a perceptual loss; raises UsageError if it is missing, or if the loss
    names an unknown layer."""
    if unknown := sorted(set(settings.layers) - set(LAYERS)):
        raise UsageError(f"VGG19 has no layer {unknown[0]!r}; available: {', '.join(LAYERS)}")
    configured = settings.vgg or os.environ.get(VGG_VARIABLE)
    remedy = (
        f"download {VGG19_URL} (548 MB) and set its path in the recipe (losses: vgg) or in "
        f"{VGG_VARIABLE}"
    )
    if not configured:
        raise UsageError(f"the perceptual loss needs VGG19's weights: {remedy}")
    path = Path(configured).expanduser()
    if not path.is_file():
        raise UsageError(f"there are no VGG19 weights at {path}: {remedy}")
    return path


def load_features(settings: PerceptualSettings) -> VggFeatures:
    """The feature extractor of a perceptual loss; raises UsageError if the weight file is missing
    or holds another network."""
    path = weight_file(settings)
    network = VggFeatures(settings.layers)
    try:
        weights, _ = read_weights(path, VGG19_URL)
    except MetricUnavailable as error:
        raise UsageError(str(error)) from error
    try:
        network.load_state_dict({key: weights[key] for key in network.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise UsageError(
            f"{path} is not torchvision's VGG19 ({type(error).__name__}: {error}); "
            f"download {VGG19_URL}"
        ) from error
    return network.eval()


def _check(settings: PerceptualSettings) -> None:
    weight_file(settings)


def _build(settings: PerceptualSettings, inputs: LossInputs) -> LossTerm:
    features = load_features(settings).to(inputs.device)
    return lambda output, hr, lr: perceptual(features, output, hr, settings.layers)


LOSS = Loss(name="perceptual", settings=PerceptualSettings, build=_build, check=_check)
