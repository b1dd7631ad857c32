"""SPAN: the swift parameter-free attention network (Wan et al. 2024).

A block's attention is an odd function of its own features, so it has no weights. Each convolution
has two forms. Expanded, as its authors train it, it is the sum of a 1x1 convolution and a chain of
1x1, 3x3 and 1x1 with twice the features. Merged, it is the one 3x3 convolution that equals this
sum; training in this form takes a third of the time per step.
"""

from collections.abc import Sequence
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from superres.model.archs.architecture import (
    ArchFacts,
    Architecture,
    Parameters,
    SpandrelLayout,
)
from superres.model.archs.derived import ignore_on_load, without_keys
from superres.model.archs.initialise import kaiming_
from superres.model.archs.reconstruction import DIV2K_MEAN
from superres.model.archs.upsample import nearest_channels

BLOCKS = 6
EXPANSION = 2
OPEN_ATTENTION = 2.0  # a feature for which attention is sigmoid(2) - 0.5 = 0.38
AMPLIFICATION = 10.0


class ExpandedConvolution(nn.Module):
    """A 3x3 convolution as the sum of a 1x1 convolution and a chain of three."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.sk = nn.Conv2d(inputs, outputs, 1)
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inputs * EXPANSION, 1),
            nn.Conv2d(inputs * EXPANSION, outputs * EXPANSION, 3),
            nn.Conv2d(outputs * EXPANSION, outputs, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        # Padded before the chain, whose first convolution adds its bias to the border as well.
        return self.conv(functional.pad(features, (1, 1, 1, 1))) + self.sk(features)

    @torch.no_grad()
    def merged(self) -> nn.Conv2d:
        """The 3x3 convolution with the same output, computed in float64."""
        first, middle, last = (cast("nn.Conv2d", layer) for layer in self.conv)
        (w1, b1), (w2, b2), (w3, b3) = map(_weight_and_bias, (first, middle, last))
        single, bias = _weight_and_bias(self.sk)
        weight = torch.einsum("om,mnyx,ni->oiyx", w3[..., 0, 0], w2, w1[..., 0, 0])
        weight[..., 1, 1] += single[..., 0, 0]
        chained = w3[..., 0, 0] @ (torch.einsum("mnyx,n->m", w2, b1) + b2) + b3
        device, dtype = self.sk.weight.device, self.sk.weight.dtype
        convolution = nn.Conv2d(
            first.in_channels, last.out_channels, 3, padding=1, device=device, dtype=dtype
        )
        convolution.weight.copy_(weight)
        cast("Tensor", convolution.bias).copy_(chained + bias)
        return convolution


class SPAB(nn.Module):
    """Three convolutions and parameter-free attention; returns also the first activation."""

    def __init__(self, channels: int, merged: bool) -> None:
        super().__init__()
        self.c1_r = convolution(channels, channels, merged)
        self.c2_r = convolution(channels, channels, merged)
        self.c3_r = convolution(channels, channels, merged)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        first = functional.silu(self.c1_r(features))
        second = functional.silu(self.c2_r(first))
        third = self.c3_r(second)
        return (third + features) * (torch.sigmoid(third) - 0.5), first


class SPAN(nn.Module):
    """The network; parameters and, expanded, the state-dict keys are those of the authors' code.

    Input (B, num_in_ch, H, W), output at `upscale`. With `norm` the input is centred at `rgb_mean`
    and multiplied by `img_range`. With `residual` the nearest-neighbour enlargement is added,
    which is ours: reduced precision then only rounds what the network adds to its input.
    """

    mean: Tensor

    def __init__(
        self,
        num_in_ch: Annotated[int, Field(ge=1)] = 3,
        num_out_ch: Annotated[int, Field(ge=1)] = 3,
        feature_channels: Annotated[int, Field(ge=1)] = 48,
        upscale: Annotated[int, Field(ge=1)] = 4,
        norm: bool = True,
        img_range: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 255.0,
        rgb_mean: Sequence[float] = DIV2K_MEAN,
        merged: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        if norm and len(rgb_mean) != num_in_ch:
            raise TypeError(f"rgb_mean has {len(rgb_mean)} values for {num_in_ch} input channels")
        if residual and num_in_ch != num_out_ch:
            raise TypeError("residual needs as many output channels as input channels")
        self.upscale, self.img_range, self.residual = upscale, img_range, residual
        self.norm = norm
        self.register_buffer("mean", torch.tensor(rgb_mean).view(1, -1, 1, 1), persistent=False)
        if not norm:
            self.register_buffer("no_norm", torch.zeros(1))  # the authors' mark in weight files
        self.conv_1 = convolution(num_in_ch, feature_channels, merged)
        for number in range(1, BLOCKS + 1):
            self.add_module(f"block_{number}", SPAB(feature_channels, merged))
        self.conv_cat = nn.Conv2d(4 * feature_channels, feature_channels, 1)
        self.conv_2 = convolution(feature_channels, feature_channels, merged)
        self.upsampler = nn.Sequential(
            nn.Conv2d(feature_channels, num_out_ch * upscale**2, 3, padding=1),
            nn.PixelShuffle(upscale),
        )
        if residual:
            self._initialise()
        ignore_on_load(self, is_derived)

    @torch.no_grad()
    def _initialise(self) -> None:
        """Initialise so that every block learns, near the nearest-neighbour enlargement.

        A block multiplies features by its attention. With torch's initialisation that is near zero,
        so that the product over six blocks leaves those in the middle without a gradient. Here it
        starts at 0.38 of at most 0.5, and `conv_2` makes up for what that attenuates.
        """
        for number in range(1, BLOCKS + 1):
            last = self.get_submodule(f"block_{number}.c3_r")
            parallel = last.sk if isinstance(last, ExpandedConvolution) else last
            cast("Tensor", parallel.bias).fill_(OPEN_ATTENTION)
        layers = [self.conv_2]
        if isinstance(self.conv_2, ExpandedConvolution):
            layers = [self.conv_2.sk, self.conv_2.conv[2]]
        for layer in layers:
            cast("Tensor", layer.weight).mul_(AMPLIFICATION)
        upsampler = cast("nn.Conv2d", self.upsampler[0])
        kaiming_(upsampler, damping=0.1 / (self.img_range if self.norm else 1.0))

    def forward(self, lr_bchw: Tensor) -> Tensor:
        centred = lr_bchw
        if self.norm:
            centred = (lr_bchw - self.mean.to(lr_bchw.dtype)) * self.img_range
        shallow = features = self.conv_1(centred)
        outputs, inner = [], shallow
        for number in range(1, BLOCKS + 1):
            features, inner = self.get_submodule(f"block_{number}")(features)
            outputs.append(features)
        gathered = torch.cat((shallow, self.conv_2(features), outputs[0], inner), dim=1)
        last, shuffle = self.upsampler
        enlarged = last(self.conv_cat(gathered))
        if self.residual:
            enlarged = enlarged + nearest_channels(lr_bchw, self.upscale)
        return shuffle(enlarged)


def convolution(inputs: int, outputs: int, merged: bool) -> nn.Module:
    """A 3x3 convolution in one of its forms."""
    if merged:
        return nn.Conv2d(inputs, outputs, 3, padding=1)
    return ExpandedConvolution(inputs, outputs)


def merge(network: nn.Module) -> nn.Module:
    """Replace every expanded convolution of the network, in place, by the one that equals it."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, ExpandedConvolution):
                setattr(module, name, child.merged())
    return network


def is_derived(key: str) -> bool:
    """Whether a key is of the merged convolution that the authors' files contain beside its
    parts."""
    return ".eval_conv." in f".{key}"


def _weight_and_bias(layer: nn.Conv2d) -> tuple[Tensor, Tensor]:
    return layer.weight.double(), cast("Tensor", layer.bias).double()


def _facts(parameters: Parameters) -> ArchFacts:
    # Three 3x3 convolutions per block, and one before, one behind and one to upsample.
    return ArchFacts(scale=parameters["upscale"], receptive_field=3 * BLOCKS + 3)


def _from_spandrel(network: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    names = ("num_in_ch", "num_out_ch", "feature_channels", "upscale", "norm", "img_range")
    parameters = {name: network.hyperparameters[name] for name in (*names, "rgb_mean")}
    parameters["rgb_mean"] = list(parameters["rgb_mean"])
    return parameters, without_keys(network.state_dict(), is_derived)


ARCH = Architecture(
    name="span",
    network=SPAN,
    facts=_facts,
    spandrel=SpandrelLayout(id="SPAN", convert=_from_spandrel),
    scale_parameters=frozenset({"upscale"}),
    reparameterise=merge,
    compiled_blocks=(SPAB,),
)
