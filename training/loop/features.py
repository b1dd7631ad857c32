"""VGG19's features for the perceptual loss, from a weight file of torchvision's that is at hand."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from superres.common.errors import UsageError
from training.recipe import PerceptualLoss

VGG_VARIABLE = "SHARPLINE_VGG19"
ADDRESS = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# Configuration E of Simonyan and Zisserman 2015: convolutions of each block, and their channels.
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
LAYERS = tuple(
    f"conv{block}_{number}"
    for block, (count, _) in enumerate(BLOCKS, start=1)
    for number in range(1, count + 1)
)
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Features before the activation, by layer (conv1_1 ... conv5_4), of pictures in [0, 1].

    Never trained; only the layers that are needed are built.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, layers: Collection[str]) -> None:
        super().__init__()
        modules, self._taps = _modules(layers)
        # The names inside are torchvision's, so its file fits.
        self.features = nn.Sequential(*modules)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer(
            "deviation", torch.tensor(DEVIATION).view(1, 3, 1, 1), persistent=False
        )
        self.requires_grad_(False)

    def forward(self, bchw: Tensor) -> dict[str, Tensor]:
        values, found = (bchw - self.mean) / self.deviation, {}
        for place, module in enumerate(self.features):
            values = module(values)
            if place in self._taps:
                found[self._taps[place]] = values.float()
        return found


def weight_file(loss: PerceptualLoss) -> Path:
    """Where a perceptual loss finds its weights; raises UsageError where that is nowhere, or where
    the loss asks for a layer that VGG19 has not."""
    if unknown := sorted(set(loss.layers) - set(LAYERS)):
        raise UsageError(f"VGG19 has no layer {unknown[0]!r}; there are: {', '.join(LAYERS)}")
    named = loss.vgg or os.environ.get(VGG_VARIABLE)
    remedy = (
        f"download {ADDRESS} (548 MB) and write its path into the recipe (losses: vgg) or into "
        f"{VGG_VARIABLE}"
    )
    if not named:
        raise UsageError(f"the loss perceptual needs VGG19's weights: {remedy}")
    path = Path(named).expanduser()
    if not path.is_file():
        raise UsageError(f"there are no VGG19 weights at {path}: {remedy}")
    return path


def load_features(loss: PerceptualLoss) -> VggFeatures:
    """The features of a perceptual loss with weights in place; raises UsageError where there are
    none, or the file is of another network."""
    path = weight_file(loss)
    network = VggFeatures(loss.layers)
    try:
        weights = cast(
            "Mapping[str, Tensor]", torch.load(path, map_location="cpu", weights_only=True)
        )
        network.load_state_dict({key: weights[key] for key in network.state_dict()})
    except Exception as error:
        raise UsageError(
            f"{path} does not hold torchvision's VGG19 ({type(error).__name__}: {error}); "
            f"download {ADDRESS}"
        ) from error
    return network.eval()


def _modules(layers: Collection[str]) -> tuple[list[nn.Module], dict[int, str]]:
    """The network up to the last of `layers`, and at which places each of them lies."""
    modules: list[nn.Module] = []
    names: dict[str, int] = {}
    before = 3
    for block, (count, channels) in enumerate(BLOCKS, start=1):
        for number in range(1, count + 1):
            names[f"conv{block}_{number}"] = len(modules)
            # Not in place: the features before the activation are what is asked for.
            modules += [nn.Conv2d(before, channels, 3, padding=1), nn.ReLU()]
            before = channels
        modules.append(nn.MaxPool2d(2, 2))
    last = max(names[name] for name in layers)
    return modules[: last + 1], {names[name]: name for name in layers}
