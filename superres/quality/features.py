"""AlexNet and VGG: the frozen trunks of LPIPS and DISTS, and the layers of the perceptual loss.

Keys are torchvision's, so its published weight files load; torchvision itself is not needed.
"""

# torch's stubs are incomplete:
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from superres.common.files import sha256_file
from superres.quality.channels import to_255
from superres.quality.metric import MetricUnavailable, NotMeasurable
from superres.quality.protocol import Protocol

Array = NDArray[Any]
Trunk = Literal["alex", "vgg"]

# torchvision's files; the eight hex digits in a name are the beginning of the file's sha256.
TRUNK_FILES: dict[Trunk, str] = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}
TRUNK_URL = "https://download.pytorch.org/models/"
VGG_CHANNELS = (64, 128, 256, 512, 512)
CHANNELS: dict[Trunk, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": VGG_CHANNELS,
}
MIN_SIDE = 32  # smaller pictures shrink to nothing in either trunk


class Features(nn.Module):
    """A trunk that returns the activations at the end of each of its five stages.

    `pool` creates the pooling between VGG's stages from the number of channels; max-pooling by
    default. Takes (B, 3, H, W), normalised by the caller.
    """

    def __init__(self, trunk: Trunk, pool: Callable[[int], nn.Module] | None = None) -> None:
        super().__init__()
        layers, self._ends = _alexnet() if trunk == "alex" else _vgg16(pool)
        self.features = nn.Sequential(*layers)
        self.requires_grad_(False)

    def forward(self, bchw: Tensor) -> list[Tensor]:
        activations: list[Tensor] = []
        for index, layer in enumerate(self.features):
            bchw = layer(bchw)
            if index in self._ends:
                activations.append(bchw)
        return activations


def _alexnet() -> tuple[list[nn.Module], set[int]]:
    """Krizhevsky 2014; the stages end after each ReLU."""
    layers: list[nn.Module] = [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]
    return layers, {1, 4, 7, 9, 11}


def _vgg16(pool: Callable[[int], nn.Module] | None) -> tuple[list[nn.Module], set[int]]:
    """Configuration D of Simonyan and Zisserman 2015; the stages end before each pooling."""
    counts = (2, 2, 3, 3, 3)
    layers, convolutions = vgg(counts, pool=pool)
    ends = [convolutions[f"conv{block}_{count}"] for block, count in enumerate(counts, start=1)]
    return layers, {end + 1 for end in ends}  # after the ReLU


def vgg(
    counts: Sequence[int],
    *,
    until: Collection[str] | None = None,
    pool: Callable[[int], nn.Module] | None = None,
) -> tuple[list[nn.Module], dict[str, int]]:
    """The layers of a VGG network (Simonyan and Zisserman 2015), and by name (conv1_1, ...) the
    index of each convolution.

    `counts` are the convolutions of each block. With `until`, the last layer is the last of these
    convolutions. `pool` creates the pooling before a block from the number of channels.
    """
    layers: list[nn.Module] = []
    convolutions: dict[str, int] = {}
    before = 3
    for block, (count, channels) in enumerate(zip(counts, VGG_CHANNELS, strict=True), start=1):
        if layers:
            layers.append(pool(before) if pool else nn.MaxPool2d(2, 2))
        for number in range(1, count + 1):
            convolutions[f"conv{block}_{number}"] = len(layers)
            layers.append(nn.Conv2d(before, channels, 3, padding=1))
            if until is not None and convolutions.keys() >= set(until):
                return layers, convolutions
            layers.append(nn.ReLU())  # not in place: the features before it are used too
            before = channels
    return layers, convolutions


def load_trunk(
    weights: Path, trunk: Trunk, pool: Callable[[int], nn.Module] | None = None
) -> tuple[Features, str]:
    """The trunk with torchvision's weights from a folder, and the beginning of their sha256.

    Raises MetricUnavailable if the file is missing, damaged or of another network.
    """
    name = TRUNK_FILES[trunk]
    stored, digest = read_weights(weights / name, TRUNK_URL + name)
    network = Features(trunk, pool)
    own = network.state_dict()
    try:
        state = {key: stored[key] for key in own if key.endswith(("weight", "bias"))}
        network.load_state_dict({**own, **state})
    except (KeyError, RuntimeError) as error:
        raise MetricUnavailable(
            f"{weights / name} does not hold torchvision's network ({error}); download "
            f"{TRUNK_URL}{name}"
        ) from error
    return network.eval(), digest


def read_weights(path: Path, url: str) -> tuple[Mapping[str, Tensor], str]:
    """A weight file's tensors (weights_only) and the first eight hex digits of its sha256.

    Raises MetricUnavailable with the URL if the file is missing or damaged.
    """
    if not path.is_file():
        raise MetricUnavailable(f"{path} does not exist: download {url} and save it there")
    digest = sha256_file(path)
    stated = re.search(r"-([0-9a-f]{8})\.pth$", path.name)
    if stated and not digest.startswith(stated[1]):
        raise MetricUnavailable(
            f"{path} is damaged: its sha256 begins with {digest[:8]}; download {url} again"
        )
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(stored, Mapping):
            raise TypeError("no state dict")
    except Exception as error:  # torch raises many types for an invalid file
        raise MetricUnavailable(
            f"{path} holds no weights ({type(error).__name__}); download {url} again"
        ) from error
    return cast("Mapping[str, Tensor]", stored), digest[:8]


def device() -> torch.device:
    """The device of metric networks: a GPU if available."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def unit_bchw(rgb_hwc: Array, protocol: Protocol) -> Tensor:
    """An RGB picture inside the protocol's border crop as (1, 3, H, W) in [0, 1].

    Raises NotMeasurable if a side is shorter than MIN_SIDE.
    """
    border = protocol.border
    values = to_255(rgb_hwc, protocol) / 255.0
    values = values[border : values.shape[0] - border, border : values.shape[1] - border]
    if min(values.shape[:2]) < MIN_SIDE:
        raise NotMeasurable(
            f"a network's features need sides of {MIN_SIDE} pixels inside the border crop of "
            f"{border}; this picture leaves {values.shape[1]}x{values.shape[0]}"
        )
    return torch.from_numpy(values.transpose(2, 0, 1)[None].copy()).float().to(device())
