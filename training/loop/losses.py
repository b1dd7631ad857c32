"""What training minimises: a weighted sum of named terms on float32 pictures in [0, 1]."""

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
    """Charbonnier et al. 1994: L1 with a round bottom."""
    return torch.sqrt((output_bchw - hr_bchw) ** 2 + CHARBONNIER_EPSILON**2).mean()


def fft(output_bchw: Tensor, hr_bchw: Tensor) -> Tensor:
    """L1 between the real and imaginary parts of the spectra (Cho et al. 2021, equation 5)."""
    return torch.view_as_real(torch.fft.fft2(output_bchw - hr_bchw)).abs().mean()


def ldl(output_bchw: Tensor, hr_bchw: Tensor, ema_bchw: Tensor) -> Tensor:
    """L1 weighted by how likely an artefact is (Liang et al. 2022, equations 3 to 7).

    That is where the error varies much around a pixel and over the picture, and is greater than
    that of the averaged network's output. The weights are no way for the gradient.
    """
    return functional.l1_loss(*_weighted(output_bchw, hr_bchw, ema_bchw))


def _weighted(output_bchw: Tensor, hr_bchw: Tensor, ema_bchw: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        error = (hr_bchw - output_bchw).abs().sum(1, keepdim=True)
        average_error = (hr_bchw - ema_bchw).abs().sum(1, keepdim=True)
        overall = torch.var(error, dim=(1, 2, 3), keepdim=True) ** 0.2
        weights = overall * _local_variance(error) * (error >= average_error)
    return weights * output_bchw, weights * hr_bchw


def _local_variance(plane_b1hw: Tensor) -> Tensor:
    """The sample variance in a window around each pixel, borders reflected."""
    reach, count = LDL_WINDOW // 2, LDL_WINDOW**2
    padded = functional.pad(plane_b1hw, [reach] * 4, mode="reflect")
    mean = functional.avg_pool2d(padded, LDL_WINDOW, stride=1)
    square = functional.avg_pool2d(padded**2, LDL_WINDOW, stride=1)
    return (square - mean**2).clamp(min=0) * count / (count - 1)


def _bce_with_logits(logits: Tensor, truth: bool) -> Tensor:
    """How far a discriminator is from saying that these are true, or are not."""
    return functional.binary_cross_entropy_with_logits(
        logits, torch.full_like(logits, float(truth))
    )


def gan(discriminator: Discriminator, output_bchw: Tensor, hr_bchw: Tensor, kind: str) -> Tensor:
    """The generator's side. Relativistic: output and truth each against the other's mean, halved
    (Jolicoeur-Martineau 2018, as ESRGAN has it)."""
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
    """The discriminator's side; its loss is the sum. `output_bchw` carries no gradient."""
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


_PIXEL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functional.l1_loss,
    "charbonnier": charbonnier,
    "mse": functional.mse_loss,
    "fft": fft,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossInputs:
    """Networks that some terms ask: each is called with pictures and needed only by its own term.

    `features` gives VGG's features by layer, `discriminator` logits, `ema` the averaged network's
    output for the LR pictures.
    """

    features: Callable[[Tensor], Mapping[str, Tensor]] | None = None
    discriminator: Discriminator | None = None
    ema: Callable[[Tensor], Tensor] | None = None


class LossSum:
    """The terms of a recipe, so that the one that fails can be named."""

    def __init__(self, losses: Sequence[Loss], loss_inputs: LossInputs | None = None) -> None:
        self._losses, self._loss_inputs = tuple(losses), loss_inputs or LossInputs()

    def __call__(
        self, output_bchw: Tensor, hr_bchw: Tensor, lr_bchw: Tensor | None = None
    ) -> tuple[Tensor, Terms]:
        """The weighted sum, and each term unweighted by name. LDL alone needs the LR pictures."""
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
            assert loss_inputs.features is not None, "a perceptual loss comes with its features"
            return perceptual(loss_inputs.features, output_bchw, hr_bchw, loss.layers)
        if isinstance(loss, GanLoss):
            assert loss_inputs.discriminator is not None, (
                "a recipe's gan loss comes with a discriminator"
            )
            return gan(loss_inputs.discriminator, output_bchw, hr_bchw, loss.kind)
        if isinstance(loss, LdlLoss):
            assert loss_inputs.ema is not None, "LDL compares with the averaged network"
            assert lr_bchw is not None, "LDL compares with the averaged network"
            with torch.no_grad():
                ema_bchw = loss_inputs.ema(lr_bchw)
            return ldl(output_bchw, hr_bchw, ema_bchw)
        return _PIXEL[loss.name](output_bchw, hr_bchw)


def perceptual(
    features: Callable[[Tensor], Mapping[str, Tensor]],
    output_bchw: Tensor,
    hr_bchw: Tensor,
    layers: Mapping[str, float],
) -> Tensor:
    """Johnson et al. 2016, with ESRGAN's features: L1 of each layer's by its weight."""
    with torch.no_grad():
        true = features(hr_bchw)
    ours = features(output_bchw)
    return sum(
        (weight * functional.l1_loss(ours[name], true[name]) for name, weight in layers.items()),
        start=output_bchw.new_zeros(()),
    )
