"""Locally discriminative learning (Liang et al. 2022): L1 weighted by artefact likelihood."""

import torch
from torch import Tensor
from torch.nn import functional

from training.losses.loss import Loss, LossInputs, LossSettings, LossTerm

WINDOW = 7


def ldl(output_bchw: Tensor, hr_bchw: Tensor, ema_bchw: Tensor) -> Tensor:
    """L1 weighted by a map of artefact likelihood (equations 3 to 7).

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
    radius, count = WINDOW // 2, WINDOW**2
    padded = functional.pad(plane_b1hw, [radius] * 4, mode="reflect")
    mean = functional.avg_pool2d(padded, WINDOW, stride=1)
    square = functional.avg_pool2d(padded**2, WINDOW, stride=1)
    return (square - mean**2).clamp(min=0) * count / (count - 1)


def _build(settings: LossSettings, inputs: LossInputs) -> LossTerm:
    ema = inputs.ema
    assert ema is not None, "LDL needs the EMA network"

    def term(output_bchw: Tensor, hr_bchw: Tensor, lr_bchw: Tensor | None) -> Tensor:
        assert lr_bchw is not None, "LDL needs the LR pictures"
        with torch.no_grad():
            ema_bchw = ema(lr_bchw)
        return ldl(output_bchw, hr_bchw, ema_bchw)

    return term


LOSS = Loss(name="ldl", build=_build)
