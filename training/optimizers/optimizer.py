"""The entry that an optimizer's module registers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from superres.common.registry import check_fields
from superres.common.strict import StrictModel

if TYPE_CHECKING:
    import torch
    from torch import nn


class OptimizerSettings(StrictModel):
    """An optimizer in a recipe: its name. Subclasses add settings."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimizer:
    """An optimizer. `build` takes the parameters, the learning rate, which the schedule then sets
    in every step, and an instance of `settings`.
    """

    name: str
    build: "Callable[[list[nn.Parameter], float, Any], torch.optim.Optimizer]"
    settings: type[OptimizerSettings] = OptimizerSettings

    def __post_init__(self) -> None:
        check_fields(self, functions=("build",), classes={"settings": OptimizerSettings})
