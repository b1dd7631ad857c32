"""The protocol of a score: scores of different protocols cannot be compared."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from superres.common.errors import SharplineError

SSIM_VARIANT = "gaussian-11-1.5"


class ProtocolMismatch(SharplineError):
    """Two scores were measured under different protocols."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How a score is measured.

    `border` pixels are cropped from every side of both pictures; `resampler` is the degradation
    that made the low-resolution input; `dataset` names the pictures.
    """

    dataset: str
    scale: int
    channel: Literal["y", "rgb"]
    border: int
    resampler: str = "matlab-bicubic"
    ssim: str = SSIM_VARIANT
    bit_depth: int = 8

    def as_dict(self) -> dict[str, str | int]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Protocol":
        return cls(**value)

    def __str__(self) -> str:
        return (
            f"{self.dataset}, x{self.scale}, {self.channel.upper()}, border {self.border}, "
            f"{self.resampler}, {self.bit_depth} bit"
        )


def require_same(first: Protocol, second: Protocol) -> None:
    """Raise ProtocolMismatch if the protocols differ, naming each such field."""
    different = [
        f"{field.name} ({getattr(first, field.name)} against {getattr(second, field.name)})"
        for field in fields(Protocol)
        if getattr(first, field.name) != getattr(second, field.name)
    ]
    if different:
        raise ProtocolMismatch(
            "these scores were measured differently and cannot be compared: "
            + ", ".join(different)
            + "; measure both again under one protocol"
        )
