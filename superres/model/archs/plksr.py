"""PLKSR: convolutions with a large kernel on a part of the channels (Lee et al. 2024).

Only convolutions and element-wise products: unlike attention, they have a bounded receptive field.
PLKSR-tiny has 12 blocks, a 13x13 kernel and no element-wise attention. RealPLKSR is not included:
its group normalisation averages over the whole picture, so tiles would differ from the whole.
"""

from typing import Annotated, Any, Literal

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
from superres.model.archs.upsample import nearest_channels

MIXER_KERNELS = {"CCM": (3, 1), "ICCM": (1, 3), "DCCM": (3, 3)}


class PartialLargeKernel(nn.Module):
    """A large convolution of the first channels; the others pass unchanged."""

    def __init__(self, channels: int, kernel_size: int) -> None:
        super().__init__()
        self.channels = channels
        self.conv = nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)
        nn.init.trunc_normal_(self.conv.weight, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        first, others = features[:, : self.channels], features[:, self.channels :]
        return torch.cat((self.conv(first), others), dim=1)


class ElementwiseAttention(nn.Module):
    """Features times the sigmoid of a convolution of themselves."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        convolution = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.trunc_normal_(convolution.weight, std=0.02)
        self.f = nn.Sequential(convolution, nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        return features * self.f(features)


class PLKBlock(nn.Module):
    """Channel mixer, partial large kernel, attention and a 1x1 convolution, with a residual."""

    def __init__(
        self, channels: int, mixer: str, kernel_size: int, partial: int, attention: bool
    ) -> None:
        super().__init__()
        first, second = MIXER_KERNELS[mixer]
        last = nn.Conv2d(2 * channels, channels, second, padding=second // 2)
        self.channe_mixer = nn.Sequential(  # the authors' spelling, in every weight file
            nn.Conv2d(channels, 2 * channels, first, padding=first // 2),
            nn.GELU(),
            last,
        )
        self.lk = PartialLargeKernel(partial, kernel_size)
        self.attn = ElementwiseAttention(channels) if attention else nn.Identity()
        self.refine = nn.Conv2d(channels, channels, 1)
        for layer in (last, self.refine):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, features: Tensor) -> Tensor:
        return features + self.refine(self.attn(self.lk(self.channe_mixer(features))))


class PLKSR(nn.Module):
    """The network; parameters and state-dict keys are those of the authors' code.

    Input (B, 3, H, W), output at `upscaling_factor`. `ccm_type` names the channel mixer;
    `split_ratio` is the fraction of the channels that the large kernel convolves.
    """

    def __init__(
        self,
        dim: Annotated[int, Field(ge=1)] = 64,
        n_blocks: Annotated[int, Field(ge=1)] = 28,
        upscaling_factor: Annotated[int, Field(ge=1)] = 4,
        ccm_type: Literal["CCM", "ICCM", "DCCM"] = "DCCM",
        kernel_size: Annotated[int, Field(ge=1)] = 17,
        split_ratio: Annotated[float, Field(gt=0, le=1)] = 0.25,
        use_ea: bool = True,
    ) -> None:
        super().__init__()
        partial = int(dim * split_ratio)
        if not kernel_size % 2:
            raise TypeError(f"kernel_size must be odd, not {kernel_size}")
        if not partial:
            raise TypeError(f"split_ratio {split_ratio} of {dim} channels is less than one")
        self.upscaling_factor = upscaling_factor
        first = nn.Conv2d(3, dim, 3, padding=1)
        last = nn.Conv2d(dim, 3 * upscaling_factor**2, 3, padding=1)
        blocks = [PLKBlock(dim, ccm_type, kernel_size, partial, use_ea) for _ in range(n_blocks)]
        self.feats = nn.Sequential(first, *blocks, last)
        for layer in (first, last):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, lr_bchw: Tensor) -> Tensor:
        nearest = nearest_channels(lr_bchw, self.upscaling_factor)
        return functional.pixel_shuffle(self.feats(lr_bchw) + nearest, self.upscaling_factor)


def _facts(parameters: Parameters) -> ArchFacts:
    mixer = sum(side // 2 for side in MIXER_KERNELS[parameters["ccm_type"]])
    block = mixer + parameters["kernel_size"] // 2 + int(parameters["use_ea"])
    return ArchFacts(
        scale=parameters["upscaling_factor"], receptive_field=parameters["n_blocks"] * block + 2
    )


def _from_spandrel(network: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    hyperparameters, weights = network.hyperparameters, dict(network.state_dict())
    if "ccm_type" not in hyperparameters:
        raise UnsupportedVariant("RealPLKSR is not supported, only PLKSR")
    if "feats.1.lk.conv.weight" not in weights:
        raise UnsupportedVariant("PLKSR with sparse or rectangular large kernels is not supported")
    names = ("dim", "n_blocks", "upscaling_factor", "ccm_type", "kernel_size", "split_ratio")
    return {name: hyperparameters[name] for name in (*names, "use_ea")}, weights


ARCH = Architecture(
    name="plksr",
    network=PLKSR,
    facts=_facts,
    spandrel=SpandrelLayout(id="PLKSR", convert=_from_spandrel),
    scale_parameters=frozenset({"upscaling_factor"}),
    compiled_blocks=(PLKBlock,),
)
