"""The exponential moving average (EMA) of the weights, which is validated and published."""

from collections.abc import Mapping

from torch import Tensor, nn

from training.basicsr_bridge import patch_torchvision


class ExponentialMovingAverage:
    """timm's EMA of a network's state, on the network's device.

    The decay of the n-th update is min(decay, (1 + n) / (10 + n)), as in TensorFlow's
    ExponentialMovingAverage, so that the initial weights do not dominate a short training.
    """

    def __init__(self, net: nn.Module, decay: float) -> None:
        patch_torchvision()
        from timm.utils.model_ema import ModelEmaV3

        self._decay = decay
        self._ema = ModelEmaV3(net, decay=decay)

    def update(self, net: nn.Module, updates: int) -> None:
        """Update the average after step number `updates`."""
        self._ema.decay = min(self._decay, (1 + updates) / (10 + updates))
        self._ema.update(net)

    def output(self, lr_bchw: Tensor) -> Tensor:
        """The EMA network's output for LR pictures (B, 3, H, W)."""
        return self._ema.module(lr_bchw)

    def state_dict(self) -> dict[str, Tensor]:
        """The averaged state by the network's state-dict keys; not a copy."""
        return self._ema.module.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load a state returned by `state_dict`."""
        self._ema.module.load_state_dict(state)
