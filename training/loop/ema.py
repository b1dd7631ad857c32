"""The running mean of the weights: what is validated and published."""

from collections.abc import Mapping

from torch import Tensor, nn

from training.weights.basicsr_bridge import mend_torchvision


class ExponentialMovingAverage:
    """timm's exponential moving average of a network's state, on the network's device.

    The decay starts low and rises to `decay` as (1 + n) / (10 + n) (as TensorFlow's
    ExponentialMovingAverage does), so that a short training is not an average with its start.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        mend_torchvision()
        from timm.utils.model_ema import ModelEmaV3

        self._decay = decay
        self._ema = ModelEmaV3(net, decay=decay)

    def update(self, net: nn.Module, updates: int) -> None:
        """Take in the weights after the `updates`-th step."""
        self._ema.decay = min(self._decay, (1 + updates) / (10 + updates))
        self._ema.update(net)

    def output(self, lr_bchw: Tensor) -> Tensor:
        """What the averaged network makes of LR pictures."""
        return self._ema.module(lr_bchw)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged state by the network's keys; not a copy."""
        return self._ema.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        self._ema.module.load_state_dict(state)
