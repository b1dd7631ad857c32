"""The entry that a loss's module registers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field

from superres.common.registry import check_fields
from superres.common.strict import StrictModel

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# (output, hr, lr) -> a scalar; pictures are (B, 3, H, W), the LR pictures None if unknown.
LossTerm = Callable[["Tensor", "Tensor", "Tensor | None"], "Tensor"]


class LossSettings(StrictModel):
    """A loss in a recipe: its name and weight. Subclasses add settings."""

    name: str
    weight: float = Field(gt=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """What a term may use besides the pictures, on `device`.

    `discriminator` returns logits (None: the recipe has no discriminator), `ema` the EMA network's
    output for LR pictures.
    """

    device: "torch.device | None" = None
    discriminator: "Callable[[Tensor], Tensor] | None" = None
    ema: "Callable[[Tensor], Tensor] | None" = None


def no_check(settings: LossSettings) -> None:
    """The check of a loss that needs nothing besides the pictures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss. `build` makes its term from its settings, an instance of `settings`.

    `check` runs before the first step and raises UsageError, for example if a file is missing. A
    recipe with a loss that `needs_discriminator` must have one, which the loss `gan` trains.
    """

    name: str
    build: Callable[[Any, LossInputs], LossTerm]
    settings: type[LossSettings] = LossSettings
    check: Callable[[Any], None] = no_check
    needs_discriminator: bool = False

    def __post_init__(self) -> None:
        check_fields(self, functions=("build", "check"), classes={"settings": LossSettings})


def pixel_loss(name: str, distance: "Callable[[Tensor, Tensor], Tensor]") -> Loss:
    """A loss that is a function of output and ground truth alone."""

    def build(settings: LossSettings, inputs: LossInputs) -> LossTerm:
        return lambda output_bchw, hr_bchw, lr_bchw: distance(output_bchw, hr_bchw)

    return Loss(name=name, build=build)
