"""Adam (Kingma and Ba 2015); the weight decay is an L2 penalty."""

import torch
from pydantic import Field
from torch import nn

from training.optimizers.optimizer import Optimizer, OptimizerSettings


class AdamSettings(OptimizerSettings):
    """`betas`: the decay rates of the averages of gradient and squared gradient."""

    betas: list[float] = Field(min_length=2, max_length=2)
    weight_decay: float = Field(ge=0)


def adam_entry(name: str, kind: type[torch.optim.Adam]) -> Optimizer:
    """The entry of Adam or a subclass of it; fused: one kernel for all parameters, also on CPUs."""

    def build(
        parameters: list[nn.Parameter], learning_rate: float, settings: AdamSettings
    ) -> torch.optim.Optimizer:
        beta1, beta2 = settings.betas
        return kind(
            parameters,
            lr=learning_rate,
            betas=(beta1, beta2),
            weight_decay=settings.weight_decay,
            fused=True,
        )

    return Optimizer(name=name, settings=AdamSettings, build=build)


OPTIMIZER = adam_entry("adam", torch.optim.Adam)
