"""`gradient`: the distance of the pictures' gradients, which keeps edges sharp."""

from pydantic import Field
from torch import Tensor

from training.losses.loss import Loss, LossInputs, LossSettings, LossTerm


class GradientSettings(LossSettings):
    """`power` of the differences: 1 is L1."""

    power: float = Field(gt=0, le=2)


def _build(settings: GradientSettings, inputs: LossInputs) -> LossTerm:
    def term(output_bchw: Tensor, hr_bchw: Tensor, lr_bchw: Tensor | None) -> Tensor:
        error_bchw = output_bchw - hr_bchw
        differences = (error_bchw.diff(dim=dim).abs() ** settings.power for dim in (2, 3))
        return sum((each.mean() for each in differences), start=output_bchw.new_zeros(()))

    return term


LOSS = Loss(name="gradient", settings=GradientSettings, build=_build)
