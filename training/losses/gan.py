"""The adversarial loss: vanilla, or relativistic average as in ESRGAN."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from training.losses.loss import Loss, LossInputs, LossSettings, LossTerm

Discriminator = Callable[[Tensor], Tensor]


class GanSettings(LossSettings):
    """Relativistic: the relativistic average loss (Jolicoeur-Martineau 2018)."""

    kind: Literal["vanilla", "relativistic"]


def gan(discriminator: Discriminator, output_bchw: Tensor, hr_bchw: Tensor, kind: str) -> Tensor:
    """The generator's adversarial loss. Relativistic: the mean of both terms of the relativistic
    average loss (Jolicoeur-Martineau 2018, as in ESRGAN)."""
    fake = discriminator(output_bchw)
    if kind == "vanilla":
        return _bce_with_logits(fake, True)
    with torch.no_grad():
        real = discriminator(hr_bchw)
    return (
        _bce_with_logits(real - fake.mean(), False) + _bce_with_logits(fake - real.mean(), True)
    ) / 2


def discriminator_terms(
    discriminator: Discriminator, output_bchw: Tensor, hr_bchw: Tensor, kind: str
) -> dict[str, Tensor]:
    """The terms of the discriminator's loss, which is their sum. `output_bchw` is detached."""
    real, fake = discriminator(hr_bchw), discriminator(output_bchw)
    if kind == "vanilla":
        return {
            "discriminator_real": _bce_with_logits(real, True),
            "discriminator_fake": _bce_with_logits(fake, False),
        }
    return {
        "discriminator_real": _bce_with_logits(real - fake.mean().detach(), True) / 2,
        "discriminator_fake": _bce_with_logits(fake - real.mean().detach(), False) / 2,
    }


def _bce_with_logits(logits: Tensor, is_real: bool) -> Tensor:
    """Binary cross-entropy with logits, against all-ones (real) or all-zeros targets."""
    return functional.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, float(is_real))
    )


def _build(settings: GanSettings, inputs: LossInputs) -> LossTerm:
    discriminator = inputs.discriminator
    assert discriminator is not None, "a gan loss needs a discriminator"
    return lambda output, hr, lr: gan(discriminator, output, hr, settings.kind)


LOSS = Loss(name="gan", settings=GanSettings, build=_build, needs_discriminator=True)
