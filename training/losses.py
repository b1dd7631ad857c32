"""What training minimises: a weighted sum of named terms on float32 pictures in [0, 1]."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from training.recipe import Loss

CHARBONNIER_EPSILON = 1e-3


def charbonnier(output_bchw: Tensor, hr_bchw: Tensor) -> Tensor:
    """Charbonnier et al. 1994: L1 with a round bottom."""
    return torch.sqrt((output_bchw - hr_bchw) ** 2 + CHARBONNIER_EPSILON**2).mean()


_TERMS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functional.l1_loss,
    "charbonnier": charbonnier,
    "mse": functional.mse_loss,
}


class LossSum:
    """The terms of a recipe, so that the one that fails can be named."""

    def __init__(self, losses: Sequence[Loss]) -> None:
        self._losses = tuple(losses)

    def __call__(self, output_bchw: Tensor, hr_bchw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum, and each term unweighted by name."""
        terms = {loss.name: _TERMS[loss.name](output_bchw, hr_bchw) for loss in self._losses}
        return sum(
            (loss.weight * terms[loss.name] for loss in self._losses),
            start=output_bchw.new_zeros(()),
        ), terms
