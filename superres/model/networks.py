"""The networks that Sharpline knows by name: their parameters, and what their papers report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

SET5 = "Set5 x4, Y"
URBAN100 = "Urban100 x4, Y"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedScore:
    """PSNR in dB that authors report; `protocol` is the set, scale and channel, the inputs are
    MATLAB's bicubic, the border crop equals the scale."""

    psnr: float
    protocol: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedNetwork:
    """A network at one scale. `starter` is the starter model that has it."""

    name: str
    arch: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    published: PublishedScore | None = None
    starter: str | None = None


def _swinir(channels: int, layers: int, upsampler: str) -> dict[str, Any]:
    return {
        "upscale": 4,
        "embed_dim": channels,
        "depths": [6] * layers,
        "num_heads": [6] * layers,
        "mlp_ratio": 2,
        "upsampler": upsampler,
    }


def _score(psnr: float, protocol: str, source: str) -> PublishedScore:
    return PublishedScore(psnr=psnr, protocol=protocol, source=source)


NETWORKS: tuple[NamedNetwork, ...] = (
    NamedNetwork(
        name="srcnn",
        arch="srcnn",
        published=_score(30.48, SET5, "Dong et al. 2016"),
        starter="srcnn_x4",
    ),
    NamedNetwork(
        name="span_32", arch="span", parameters={"feature_channels": 32}, starter="span_fast_x4"
    ),
    NamedNetwork(
        name="span_48",
        arch="span",
        published=_score(26.18, URBAN100, "Wan et al. 2024, who state 498 k weights"),
        starter="span_x4",
    ),
    NamedNetwork(name="compact", arch="compact", starter="compact_x4"),
    NamedNetwork(name="vdsr", arch="vdsr", published=_score(31.35, SET5, "Kim et al. 2016")),
    NamedNetwork(
        name="dat_light",
        arch="dat",
        published=_score(26.64, URBAN100, "Chen et al. 2023, the authors' repository"),
    ),
    NamedNetwork(
        name="swinir_light",
        arch="swinir",
        parameters=_swinir(60, 4, "pixelshuffledirect"),
        published=_score(32.44, SET5, "Liang et al. 2021"),
        starter="swinir_light_x4",
    ),
    NamedNetwork(
        name="plksr_tiny",
        arch="plksr",
        parameters={"n_blocks": 12, "kernel_size": 13, "use_ea": False},
    ),
    NamedNetwork(name="plksr", arch="plksr"),
    NamedNetwork(
        name="esrgan_small",
        arch="rrdb",
        parameters={"num_feat": 32, "num_block": 2},
        starter="esrgan_small_x4",
    ),
    NamedNetwork(
        name="swinir",
        arch="swinir",
        parameters=_swinir(180, 6, "pixelshuffle"),
        published=_score(32.92, SET5, "Liang et al. 2021, trained on DF2K"),
    ),
    NamedNetwork(
        name="esrgan",
        arch="rrdb",
        published=_score(32.73, SET5, "Wang et al. 2018, the PSNR-oriented model"),
    ),
    NamedNetwork(name="nafnet_small", arch="nafnet"),
)
