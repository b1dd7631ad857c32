"""Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""

import torch
from torch import nn

from training.optimizers.adam import AdamSettings
from training.optimizers.optimizer import Optimizer


def _build(
    parameters: list[nn.Parameter], learning_rate: float, settings: AdamSettings
) -> torch.optim.Optimizer:
    """Fused: one kernel for all parameters, also on the CPU."""
    beta1, beta2 = settings.betas
    return torch.optim.AdamW(
        parameters,
        lr=learning_rate,
        betas=(beta1, beta2),
        weight_decay=settings.weight_decay,
        fused=True,
    )


OPTIMIZER = Optimizer(name="adamw", settings=AdamSettings, build=_build)
