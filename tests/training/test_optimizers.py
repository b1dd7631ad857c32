"""Optimizers take their steps as torch's do, with the settings of the recipe."""

import pytest
import torch
from torch import nn

from superres.common.errors import UsageError
from training.optimizers import OPTIMIZERS


def after_steps(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> torch.Tensor:
    for _ in range(3):
        optimizer.zero_grad()
        (weight**3).sum().backward()
        optimizer.step()
    return weight.detach()


@pytest.mark.parametrize(
    ("name", "theirs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)]
)
def test_an_optimizer_steps_as_torchs(name: str, theirs: type[torch.optim.Optimizer]) -> None:
    entry = OPTIMIZERS.get(name)
    settings = entry.settings.model_validate(
        {"name": name, "betas": [0.8, 0.95], "weight_decay": 0.1}
    )
    ours, reference = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    made = entry.build([ours], 0.05, settings)
    expected = theirs([reference], lr=0.05, betas=(0.8, 0.95), weight_decay=0.1)
    assert made.defaults["fused"] is True
    torch.testing.assert_close(after_steps(made, ours), after_steps(expected, reference))


def test_an_unknown_optimizer_suggests_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no optimizer 'adamww'; did you mean adamw\?"):
        OPTIMIZERS.get("adamww")
