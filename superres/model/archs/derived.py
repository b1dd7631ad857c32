"""Keys that files of reference implementations contain although other weights determine them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn


def without(state_dict: Mapping[str, Tensor], derived: Callable[[str], bool]) -> dict[str, Tensor]:
    """The state dict without the keys for which `derived` is true."""
    return {key: value for key, value in state_dict.items() if not derived(key)}


def drop_on_load(network: nn.Module, derived: Callable[[str], bool]) -> None:
    """Let the network ignore such keys in the state dicts that it loads."""
    network.register_load_state_dict_pre_hook(partial(_drop, derived))


def _drop(
    derived: Callable[[str], bool], module: nn.Module, state_dict: dict[str, Any], *_: object
) -> None:
    for key in [key for key in state_dict if derived(key)]:
        del state_dict[key]
