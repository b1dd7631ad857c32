"""The weighted sum of a recipe's losses."""

from collections.abc import Sequence

from torch import Tensor

from training.losses import LOSSES
from training.losses.loss import LossInputs, LossSettings

Terms = dict[str, Tensor]


class LossSum:
    """The losses of a recipe, with each term reported by name."""

    def __init__(self, losses: Sequence[LossSettings], inputs: LossInputs | None = None) -> None:
        inputs = inputs or LossInputs()
        self._weights = {loss.name: loss.weight for loss in losses}
        self._terms = {loss.name: LOSSES.get(loss.name).build(loss, inputs) for loss in losses}

    def __call__(
        self, output_bchw: Tensor, hr_bchw: Tensor, lr_bchw: Tensor | None = None
    ) -> tuple[Tensor, Terms]:
        """The weighted sum, and each unweighted term by name. Only LDL needs the LR pictures."""
        terms = {name: term(output_bchw, hr_bchw, lr_bchw) for name, term in self._terms.items()}
        return sum(
            (self._weights[name] * term for name, term in terms.items()),
            start=output_bchw.new_zeros(()),
        ), terms
