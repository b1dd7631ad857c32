"""Losses: a weighted sum of named terms on float32 pictures in [0, 1]."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from training.recipe import GanLoss, LdlLoss, Loss, PerceptualLoss

CHARBONNIER_EPSILON = 1e-3
LDL_WINDOW = 7

Discriminator = Callable[[Tensor], Tensor]
Terms = dict[str, Tensor]


def charbonnier(output_bchw: Tensor, hr_bchw: Tensor) -> Tensor:
    """The mean of sqrt(x^2 + epsilon^2) (Charbonnier et al. 1994)."""
    return torch.sqrt((output_bchw - hr_bchw) ** 2 + CHARBONNIER_EPSILON**2).mean()


def fft(output_bchw: Tensor, hr_bchw: Tensor) -> Tensor:
    """L1 between real and imaginary parts of the spectra (Cho et al. 2021, equation 5)."""
    return torch.view_as_real(torch.fft.fft2(output_bchw - hr_bchw)).abs().mean()


def ldl(output_bchw: Tensor, hr_bchw: Tensor, ema_bchw: Tensor) -> Tensor:
    """L1 weighted by a map of artefact likelihood (Liang et al. 2022, equations 3 to 7).

    The weight is the local variance of the error times its overall variance^0.2, and zero where
    the EMA network's error is greater. The weights are detached.
    """
    return functional.l1_loss(*_weighted(output_bchw, hr_bchw, ema_bchw))


def _weighted(output_bchw: Tensor, hr_bchw: Tensor, ema_bchw: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        error = (hr_bchw - output_bchw).abs().sum(1, keepdim=True)
        ema_error = (hr_bchw - ema_bchw).abs().sum(1, keepdim=True)
        overall = torch.var(error, dim=(1, 2, 3), keepdim=True) ** 0.2
        weights = overall * _local_variance(error) * (error >= ema_error)
    return weights * output_bchw, weights * hr_bchw


def _local_variance(plane_b1hw: Tensor) -> Tensor:
    """The sample variance in a window around each pixel, with reflection padding."""
    radius, count = LDL_WINDOW // 2, LDL_WINDOW**2
    padded = functional.pad(plane_b1hw, [radius] * 4, mode="reflect")
    mean = functional.avg_pool2d(padded, LDL_WINDOW, stride=1)
    square = functional.avg_pool2d(padded**2, LDL_WINDOW, stride=1)
    return (square - mean**2).clamp(min=0) * count / (count - 1)


def _bce_with_logits(logits: Tensor, is_real: bool) -> Tensor:
    """Binary cross-entropy with logits, against all-ones (real) or all-zeros targets."""
    return functional.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, float(is_real))
    )


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


_PIXEL_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functional.l1_loss,
    "charbonnier": charbonnier,
    "mse": functional.mse_loss,
    "fft": fft,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Networks that some terms need: perceptual, gan and ldl, in this order.

    `features` returns VGG features by layer, `discriminator` logits, `ema` the EMA network's output
    for LR pictures.
    """

    features: Callable[[Tensor], Mapping[str, Tensor]] | None = None
    discriminator: Discriminator | None = None
    ema: Callable[[Tensor], Tensor] | None = None


class LossSum:
    """The losses of a recipe, with each term reported by name."""

    def __init__(self, losses: Sequence[Loss], loss_inputs: LossInputs | None = None) -> None:
        self._losses, self._loss_inputs = tuple(losses), loss_inputs or LossInputs()

    def __call__(
        self, output_bchw: Tensor, hr_bchw: Tensor, lr_bchw: Tensor | None = None
    ) -> tuple[Tensor, Terms]:
        """The weighted sum, and each unweighted term by name. Only LDL needs the LR pictures."""
        terms = {
            loss.name: self._term(loss, output_bchw, hr_bchw, lr_bchw) for loss in self._losses
        }
        return sum(
            (loss.weight * terms[loss.name] for loss in self._losses),
            start=output_bchw.new_zeros(()),
        ), terms

    def _term(
        self, loss: Loss, output_bchw: Tensor, hr_bchw: Tensor, lr_bchw: Tensor | None
    ) -> Tensor:
        loss_inputs = self._loss_inputs
        if isinstance(loss, PerceptualLoss):
            assert loss_inputs.features is not None, "a perceptual loss needs features"
            return perceptual(loss_inputs.features, output_bchw, hr_bchw, loss.layers)
        if isinstance(loss, GanLoss):
            assert loss_inputs.discriminator is not None, "a gan loss needs a discriminator"
            return gan(loss_inputs.discriminator, output_bchw, hr_bchw, loss.kind)
        if isinstance(loss, LdlLoss):
            assert loss_inputs.ema is not None, "LDL needs the EMA network"
            assert lr_bchw is not None, "LDL needs the LR pictures"
            with torch.no_grad():
                ema_bchw = loss_inputs.ema(lr_bchw)
            return ldl(output_bchw, hr_bchw, ema_bchw)
        return _PIXEL_LOSSES[loss.name](output_bchw, hr_bchw)


def perceptual(
    features: Callable[[Tensor], Mapping[str, Tensor]],
    output_bchw: Tensor,
    hr_bchw: Tensor,
    layers: Mapping[str, float],
) -> Tensor:
    """Johnson et al. 2016, with ESRGAN's features: the weighted sum of each layer's L1."""
    with torch.no_grad():
        target = features(hr_bchw)
    ours = features(output_bchw)
    return sum(
        (weight * functional.l1_loss(ours[name], target[name]) for name, weight in layers.items()),
        start=output_bchw.new_zeros(()),
    )
