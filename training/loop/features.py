"""VGG19 features for the perceptual loss, from a local file of torchvision's weights."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from superres.common.errors import UsageError
from training.recipe import PerceptualLoss

VGG_VARIABLE = "SHARPLINE_VGG19"
VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
# Configuration E of Simonyan and Zisserman 2015: (convolutions, channels) of each block.
BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))
LAYERS = tuple(
    f"conv{block}_{number}"
    for block, (count, _) in enumerate(BLOCKS, start=1)
    for number in range(1, count + 1)
)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VggFeatures(nn.Module):
    """Features before the activation, by layer (conv1_1 ... conv5_4), of pictures in [0, 1].

    Frozen; only the layers up to the last requested one are built.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: Collection[str]) -> None:
        super().__init__()
        modules, self._taps = _modules(layers)
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


def weight_file(loss: PerceptualLoss) -> Path:
    """The weight file of a perceptual loss; raises UsageError if it is missing, or if the loss
    names an unknown layer."""
    if unknown := sorted(set(loss.layers) - set(LAYERS)):
        raise UsageError(f"VGG19 has no layer {unknown[0]!r}; available: {', '.join(LAYERS)}")
    configured = loss.vgg or os.environ.get(VGG_VARIABLE)
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


def load_features(loss: PerceptualLoss) -> VggFeatures:
    """The feature extractor of a perceptual loss; raises UsageError if the weight file is missing
    or holds another network."""
    path = weight_file(loss)
    network = VggFeatures(loss.layers)
    try:
        weights = cast(
            "Mapping[str, Tensor]", torch.load(path, map_location="cpu", weights_only=True)
        )
        network.load_state_dict({key: weights[key] for key in network.state_dict()})
    except Exception as error:
        raise UsageError(
            f"{path} is not torchvision's VGG19 ({type(error).__name__}: {error}); "
            f"download {VGG19_URL}"
        ) from error
    return network.eval()


def _modules(layers: Collection[str]) -> tuple[list[nn.Module], dict[int, str]]:
    """The modules up to the last of `layers`, and the module index of each layer."""
    modules: list[nn.Module] = []
    names: dict[str, int] = {}
    in_channels = 3
    for block, (count, channels) in enumerate(BLOCKS, start=1):
        for number in range(1, count + 1):
            names[f"conv{block}_{number}"] = len(modules)
            # Not in place: the features before the activation are returned.
            modules += [nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU()]
            in_channels = channels
        modules.append(nn.MaxPool2d(2, 2))
    last = max(names[name] for name in layers)
    return modules[: last + 1], {names[name]: name for name in layers}
