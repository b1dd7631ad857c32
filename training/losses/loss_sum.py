"""The weighted sum of a recipe's losses."""

from collections.abc import Sequence

from torch import Tensor

from superres.common.registry import PluginFailed
from training.losses import LOSSES
from training.losses.loss import LossInputs, LossSettings, LossTerm

Terms = dict[str, Tensor]


class LossSum:
    """The losses of a recipe, with each term reported by name."""

    def __init__(self, losses: Sequence[LossSettings], inputs: LossInputs | None = None) -> None:
        inputs = inputs or LossInputs()
        self._weights = {loss.name: loss.weight for loss in losses}
        self._terms = {loss.name: _build(loss, inputs) for loss in losses}

    def __call__(
        self, output_bchw: Tensor, hr_bchw: Tensor, lr_bchw: Tensor | None = None
    ) -> tuple[Tensor, Terms]:
        """The weighted sum, and each unweighted term by name. Some losses need the LR pictures."""
        terms = {name: term(output_bchw, hr_bchw, lr_bchw) for name, term in self._terms.items()}
        for name, term in terms.items():
            if term.ndim != 0:
                raise PluginFailed(f"loss {name!r} returned {tuple(term.shape)} values, not one")
        return sum(
            (self._weights[name] * term for name, term in terms.items()),
            start=output_bchw.new_zeros(()),
        ), terms


def _build(loss: LossSettings, inputs: LossInputs) -> LossTerm:
    entry = LOSSES.get(loss.name)
    with LOSSES.failures_of(loss.name):
        term = entry.build(loss, inputs)
        if not callable(term):
            raise TypeError(f"`build` returned {type(term).__name__}, not a function")
    return term
