"""RRDBNet, ESRGAN's generator: residual-in-residual dense blocks (Wang et al. 2018)."""

import re
from typing import Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.architecture import (
    ArchFacts,
    Architecture,
    Parameters,
    SpandrelLayout,
    UnsupportedVariant,
)
from superres.model.archs.initialise import kaiming_

RESIDUAL_SCALE = 0.2
GROWTH = 1.2  # of the features' magnitude through one newly initialised block


class ResidualDenseBlock(nn.Module):
    """Five convolutions with dense connections; the residual is scaled by RESIDUAL_SCALE."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(num_feat, num_grow_ch, 3, 1, 1)
        self.conv2 = nn.Conv2d(num_feat + num_grow_ch, num_grow_ch, 3, 1, 1)
        self.conv3 = nn.Conv2d(num_feat + 2 * num_grow_ch, num_grow_ch, 3, 1, 1)
        self.conv4 = nn.Conv2d(num_feat + 3 * num_grow_ch, num_grow_ch, 3, 1, 1)
        self.conv5 = nn.Conv2d(num_feat + 4 * num_grow_ch, num_feat, 3, 1, 1)
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4, self.conv5):
            # Deep residual networks need a tenth of Kaiming's deviation (ESRGAN, supplement).
            kaiming_(layer, damping=0.1)

    def forward(self, features: Tensor) -> Tensor:
        dense = [features]
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            dense.append(leaky(layer(torch.cat(dense, dim=1))))
        return features + RESIDUAL_SCALE * self.conv5(torch.cat(dense, dim=1))


class RRDB(nn.Module):
    """Three dense blocks with an outer residual connection."""

    def __init__(self, num_feat: int, num_grow_ch: int) -> None:
        super().__init__()
        self.rdb1 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb2 = ResidualDenseBlock(num_feat, num_grow_ch)
        self.rdb3 = ResidualDenseBlock(num_feat, num_grow_ch)

    def forward(self, features: Tensor) -> Tensor:
        return features + RESIDUAL_SCALE * self.rdb3(self.rdb2(self.rdb1(features)))


class RRDBNet(nn.Module):
    """ESRGAN's generator, and Real-ESRGAN's at scale 2 and 1 (on pixel-unshuffled input).

    Input (B, num_in_ch, H, W) with sides divisible by 4 / scale, output at `scale` (1, 2 or 4).
    """

    def __init__(
        self,
        num_in_ch: Annotated[int, Field(ge=1)] = 3,
        num_out_ch: Annotated[int, Field(ge=1)] = 3,
        scale: Literal[1, 2, 4] = 4,
        num_feat: Annotated[int, Field(ge=1)] = 64,
        num_block: Annotated[int, Field(ge=1)] = 23,
        num_grow_ch: Annotated[int, Field(ge=1)] = 32,
    ) -> None:
        super().__init__()
        self.unshuffle = 4 // scale
        self.conv_first = nn.Conv2d(num_in_ch * self.unshuffle**2, num_feat, 3, 1, 1)
        self.body = nn.Sequential(*[RRDB(num_feat, num_grow_ch) for _ in range(num_block)])
        self.conv_body = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up1 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_up2 = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_hr = nn.Conv2d(num_feat, num_feat, 3, 1, 1)
        self.conv_last = nn.Conv2d(num_feat, num_out_ch, 3, 1, 1)
        if scale == 4 and num_in_ch == num_out_ch == 3:
            self._initialise_as_interpolation(num_block)

    @torch.no_grad()
    def _initialise_as_interpolation(self, num_block: int) -> None:
        """Initialise the network as linear interpolation, so that training only adds detail.

        The first three features are the colours, which leaky ReLUs pass because they are not
        negative; nearest-neighbour upsampling and [1 2 1] / 4 are linear interpolation. All other
        weights start small, and so does the body's output: each new block amplifies by a fifth.
        """
        tent = torch.tensor([0.25, 0.5, 0.25])
        identity = torch.zeros(3, 3)
        identity[1, 1] = 1.0
        for layer, kernel in (
            (self.conv_first, identity),
            (self.conv_up1, torch.outer(tent, tent)),
            (self.conv_up2, torch.outer(tent, tent)),
            (self.conv_hr, identity),
            (self.conv_last, identity),
        ):
            layer.weight[:3] *= 0.02
            cast("Tensor", layer.bias)[:3] = 0.0
            for colour in range(3):
                layer.weight[colour, :3] = 0.0
                layer.weight[colour, colour] = kernel
        kaiming_(self.conv_body, damping=0.03 / GROWTH**num_block)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        if self.unshuffle > 1:
            lr_bchw = functional.pixel_unshuffle(lr_bchw, self.unshuffle)
        shallow = self.conv_first(lr_bchw)
        features = shallow + self.conv_body(self.body(shallow))
        features = leaky(self.conv_up1(upsample_nearest(features)))
        features = leaky(self.conv_up2(upsample_nearest(features)))
        return self.conv_last(leaky(self.conv_hr(features)))


class ConcatFreeBlock(nn.Module):
    """A `ResidualDenseBlock` of the same weights, without concatenating features.

    A dense layer convolves the concatenation of all earlier features. Here each new feature map is
    convolved once, with the stacked weights of all later layers, and added to their accumulators.
    This avoids the copies into wider tensors: on a device the eager block is bound by memory
    bandwidth. The other summation order changes the last bits.
    """

    def __init__(self, block: ResidualDenseBlock) -> None:
        super().__init__()
        layers = (block.conv1, block.conv2, block.conv3, block.conv4, block.conv5)
        self.growth = block.conv1.out_channels
        self.register_buffer("bias", torch.cat([_bias(layer) for layer in layers]))
        start = 0
        for number in range(len(layers)):
            width = block.conv1.in_channels if number == 0 else self.growth
            weights = [layer.weight[:, start : start + width] for layer in layers[number:]]
            stacked = torch.cat(weights).contiguous(memory_format=torch.channels_last)
            self.register_buffer(f"weight{number}", stacked)
            start += width

    def forward(self, features: Tensor) -> Tensor:
        accumulated = self._convolved(features, 0)
        for number in range(1, 5):
            activated = leaky(accumulated[:, : self.growth])
            accumulated = accumulated[:, self.growth :] + self._convolved(activated, number)
        return features + RESIDUAL_SCALE * accumulated

    def _convolved(self, features: Tensor, number: int) -> Tensor:
        weight = cast("Tensor", getattr(self, f"weight{number}"))
        bias = cast("Tensor", self.bias) if number == 0 else None
        return functional.conv2d(features, weight, bias, padding=1)


def without_concatenation(network: nn.Module) -> nn.Module:
    """Replace every dense block of the network, in place; other modules are unchanged."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ResidualDenseBlock):
                setattr(module, name, ConcatFreeBlock(child))
    return network


def _bias(layer: nn.Conv2d) -> Tensor:
    return cast("Tensor", layer.bias).detach()


def leaky(features: Tensor) -> Tensor:
    return functional.leaky_relu(features, negative_slope=0.2)


def upsample_nearest(features: Tensor) -> Tensor:
    return functional.interpolate(features, scale_factor=2, mode="nearest")


def _facts(parameters: Parameters) -> ArchFacts:
    # Per block three dense blocks of five 3x3 convolutions, two convolutions around the body at
    # the input's resolution, and a tail at 2x and 4x that reaches less than two pixels. At scale 2
    # and 1 the input is pixel-unshuffled, so the reach doubles or quadruples.
    unshuffle = 4 // parameters["scale"]
    return ArchFacts(
        scale=parameters["scale"],
        receptive_field=(15 * parameters["num_block"] + 4) * unshuffle,
        size_multiple=unshuffle,
    )


def _from_spandrel(network: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """spandrel renames all generations of ESRGAN state dicts to the oldest keys."""
    hyperparameters = network.hyperparameters
    shuffle = hyperparameters["shuffle_factor"] or 1
    if hyperparameters["plus"] or hyperparameters["scale"] != 4:
        raise UnsupportedVariant(
            "this variant of ESRGAN's generator is not supported (ESRGAN+, or scale "
            f"{hyperparameters['scale']} without pixel-unshuffle)"
        )
    last = hyperparameters["num_blocks"]
    outer = {
        "model.0": "conv_first",
        f"model.1.sub.{last}": "conv_body",
        "model.3": "conv_up1",
        "model.6": "conv_up2",
        "model.8": "conv_hr",
        "model.10": "conv_last",
    }
    weights: dict[str, Tensor] = {}
    for key, value in network.state_dict().items():
        layer, _, kind = key.rpartition(".")
        inner = re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", layer)
        name = f"body.{inner[1]}.rdb{inner[2]}.conv{inner[3]}" if inner else outer[layer]
        weights[f"{name}.{kind}"] = value
    parameters = {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "scale": 4 // shuffle,
        "num_feat": hyperparameters["num_filters"],
        "num_block": last,
        "num_grow_ch": weights["body.0.rdb1.conv1.weight"].shape[0],
    }
    return parameters, weights


ARCH = Architecture(
    name="rrdb",
    network=RRDBNet,
    facts=_facts,
    spandrel=SpandrelLayout(id="ESRGAN", convert=_from_spandrel),
    scale_parameters=frozenset({"scale"}),
    concat_free=without_concatenation,
    compiled_blocks=(RRDB,),  # the whole network takes minutes, one block seconds
)
