"""`sgd`: stochastic gradient descent with momentum."""

import torch
from pydantic import Field
from torch import nn

from training.optimizers.optimizer import Optimizer, OptimizerSettings


class SgdSettings(OptimizerSettings):
    """`momentum`: the decay rate of the averaged gradient."""

    momentum: float = Field(ge=0, lt=1)


def _build(
    parameters: list[nn.Parameter], learning_rate: float, settings: SgdSettings
) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=settings.momentum)


OPTIMIZER = Optimizer(name="sgd", settings=SgdSettings, build=_build)
