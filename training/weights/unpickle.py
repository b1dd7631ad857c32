"""Loads external pickles, in a separate process with resource limits.

`python -m training.weights.unpickle FILE OUT` reads FILE, weights only, detects its network by the
registered networks or spandrel, renames the tensors to Sharpline's state-dict keys and writes them
to OUT as safetensors, with the network in the metadata. Its last line on standard output is {} or
{"refused": REASON}. `training.weights.external` starts it.
"""

import json
import math
import pickle
import re
import resource
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from superres.common.console import emit
from superres.common.environment import cpu_threads
from superres.common.registry import PluginFailed
from superres.model.archs import ARCHS, Architecture
from superres.model.archs.architecture import UnsupportedVariant
from training.basicsr_bridge import patch_torchvision

MEBIBYTE = 1024**2
CPU_SECONDS = 240
# Keys under which well-known trainers store a state dict, EMA weights first.
WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "netG.", "net_g.")
PROBE_SIDE = 32
MAX_DIFFERENCE = 1e-3  # of full scale; float summation order changes it by far less


class Refused(Exception):
    """The file is refused; the message is the reason."""


def main(arguments: list[str]) -> int:
    """Convert FILE to OUT, or print the reason for refusing it."""
    source, target = Path(arguments[0]), Path(arguments[1])
    _set_limits(source.stat().st_size)
    torch.set_num_threads(cpu_threads())
    try:
        name, parameters, weights = convert(read_state(source))
    except Refused as refused:
        emit({"refused": str(refused)})
        return 0
    save_file(weights, target, {"arch": json.dumps({"name": name, "parameters": parameters})})
    emit({})
    return 0


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a file in float32, without wrapper and key prefixes.

    Raises Refused for a file that holds code, or no state dict.
    """
    if path.suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except Exception as error:
            raise Refused(f"it is not a valid safetensors file ({error})") from error
    else:
        content = _load_weights_only(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    tensors = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise Refused("it holds no state dict")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {
        key: value.float() if value.is_floating_point() else value for key, value in tensors.items()
    }


def convert(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Network name, parameters and state dict by our keys.

    Raises Refused for an unsupported network.
    """
    try:
        return _convert_with_spandrel(state)
    except Refused as refused:
        reasons = [str(refused)]
    for arch in map(ARCHS.get, ARCHS.names()):
        try:
            if arch.detect is None or (parameters := arch.detect(state)) is None:
                continue
            network = arch.build(parameters)
            network.load_state_dict(state)
            return arch.name, parameters, _contiguous(network)
        except Exception as error:  # the network may be another package's
            reasons.append(f"network {arch.name!r}: {type(error).__name__}: {_first_line(error)}")
    raise Refused("; ".join(reasons))


def _convert_with_spandrel(
    state: Mapping[str, Tensor],
) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """As `convert`. Checks that spandrel's network and ours give the same output."""
    patch_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spandrel

    try:
        loaded = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except Exception as error:
        # spandrel's detection may raise any exception on unexpected keys or shapes.
        detail = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise Refused(f"its network is unknown ({detail})") from error
    arch = _spandrel_archs().get(loaded.architecture.id)
    if arch is None or arch.spandrel is None:
        raise Refused(f"its network {loaded.architecture.name} is not supported")
    if loaded.input_channels != 3 or loaded.output_channels != 3:
        raise Refused(
            f"it maps {loaded.input_channels} channels to {loaded.output_channels}; "
            "Sharpline's pictures have three"
        )
    theirs = loaded.model.eval()
    try:
        with ARCHS.failures_of(arch.name):
            parameters, weights = arch.spandrel.convert(theirs)
            ours = arch.build(parameters).eval()
            ours.load_state_dict(weights)
    except (PluginFailed, UnsupportedVariant) as error:
        raise Refused(str(error)) from error
    difference = _difference(ours, theirs, arch.facts_for(parameters).size_multiple)
    if not difference <= MAX_DIFFERENCE:
        raise Refused(f"its network's output differs from ours by {difference:.1e} of full scale")
    return arch.name, parameters, _contiguous(ours)


def _spandrel_archs() -> dict[str, Architecture]:
    """The networks whose weights spandrel detects, by spandrel's id; built-in ones come last, so
    that no plug-in replaces them."""
    archs = map(ARCHS.get, reversed(ARCHS.names()))
    return {arch.spandrel.id: arch for arch in archs if arch.spandrel is not None}


def _contiguous(network: nn.Module) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in network.state_dict().items()}


def _load_weights_only(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked:
            raise Refused(
                f"its pickle calls {blocked[1]}, so it holds more than weights; none of its code "
                "was run. Ask its publisher for a plain state dict or for safetensors"
            ) from error
        # torch's message ends with the advice to disable weights_only.
        raise Refused("its pickle is damaged, or holds more than weights") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise Refused(f"it cannot be read as weights ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@torch.inference_mode()
def _difference(ours: nn.Module, theirs: nn.Module, multiple: int) -> float:
    side = math.ceil(PROBE_SIDE / multiple) * multiple
    lr_bchw = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return float((ours(lr_bchw) - theirs(lr_bchw)).abs().max())


def _set_limits(file_bytes: int) -> None:
    """Limit memory, CPU time and output to what a file of this size needs."""
    for kind, limit in (
        (resource.RLIMIT_DATA, 3072 * MEBIBYTE + 12 * file_bytes),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 64 * MEBIBYTE + 4 * file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (allowed, allowed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
