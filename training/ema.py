"""The running mean of the weights: what is validated and published."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a network's state, float32, on the network's device.

    The decay starts low and rises to `decay` as (1 + n) / (10 + n) (as TensorFlow's
    ExponentialMovingAverage does), so that a short training is not an average with its start.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        self._decay = decay
        self._average = {key: value.detach().clone() for key, value in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: nn.Module, updates: int) -> None:
        """Take in the weights after the `updates`-th step."""
        share = 1 - min(self._decay, (1 + updates) / (10 + updates))
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                self._average[key].lerp_(value, share)
            else:
                self._average[key].copy_(value)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged state by the network's keys; not a copy."""
        return self._average

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        for key, value in state.items():
            self._average[key].copy_(value)
