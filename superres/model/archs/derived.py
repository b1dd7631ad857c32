"""Keys that files of reference implementations contain although other weights determine them."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

KeyTest = Callable[[str], bool]


def last_part_in(*names: str) -> KeyTest:
    """Whether the last part of a key is one of the names."""
    return lambda key: key.rpartition(".")[2] in names


def without_keys(state_dict: Mapping[str, Tensor], is_derived: KeyTest) -> dict[str, Tensor]:
    """The state dict without its derived keys."""
    return {key: value for key, value in state_dict.items() if not is_derived(key)}


def ignore_on_load(network: nn.Module, is_derived: KeyTest) -> None:
    """Let the network ignore derived keys in the state dicts that it loads."""
    network.register_load_state_dict_pre_hook(partial(_drop, is_derived))


def _drop(is_derived: KeyTest, module: nn.Module, state_dict: dict[str, Any], *_: object) -> None:
    for key in [key for key in state_dict if is_derived(key)]:
        del state_dict[key]
