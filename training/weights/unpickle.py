"""The one place where somebody else's pickle is opened: a process of its own, with limits.

`python -m training.weights.unpickle FILE OUT` reads FILE, weights only, recognises its network with
spandrel, gives the tensors our names and writes them to OUT as safetensors, whose metadata say
which network they belong to. Its last line on standard output is {} or {"refused": REASON}.
`training.weights.external` starts it; nothing else needs to.
"""

import json
import math
import pickle
import re
import resource
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from superres.common.console import emit
from superres.common.environment import cpu_threads
from superres.model.archs import build, facts
from superres.model.archs.swinir import learned
from training.weights.basicsr_bridge import mend_torchvision

MEBIBYTE = 1024**2
CPU_SECONDS = 240
# What holds a state dict in the files of the well-known trainers, the averaged weights first.
WRAPPERS = ("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net")
PREFIXES = ("module.", "netG.", "net_g.")
PROBE_SIDE = 32
MAX_OFF = 1e-3  # of full scale; two correct orders of summation differ by far less


class Refused(Exception):
    """The file is not one to take in, with the reason for its owner."""


def main(arguments: list[str]) -> int:
    """Convert FILE into OUT, or say why not."""
    source, target = Path(arguments[0]), Path(arguments[1])
    _limit(source.stat().st_size)
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
    """The tensors of a file by name, out of their wrapper, prefixes taken off, float32.

    Raises Refused for a file that holds code, or no state dict.
    """
    if path.suffix == ".safetensors":
        try:
            found: Any = load_file(path)
        except Exception as error:
            raise Refused(f"it is not whole safetensors ({error})") from error
    else:
        found = _load_weights_only(path)
    for wrapper in WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
            break
    tensors = (
        {str(key): value for key, value in found.items() if isinstance(value, Tensor)}
        if isinstance(found, Mapping)
        else {}
    )
    if not tensors:
        raise Refused("it holds no tensors by name (no state dict)")
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {
        key: value.float() if value.is_floating_point() else value for key, value in tensors.items()
    }


def convert(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
    """Network, its parameters and the weights by our names. Proven: both answer one input alike.

    Raises Refused for a network that Sharpline does not have.
    """
    mend_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spandrel

    try:
        known = spandrel.ModelLoader().load_from_state_dict(dict(state))
    except Exception as error:
        # spandrel's readers index into what they expect; whatever they stumble over, it is no
        # network that we could run.
        raise Refused(
            f"its tensors are of no network that is known ({type(error).__name__}: {error})"
        ) from error
    reader = _READERS.get(known.architecture.id)
    if reader is None:
        raise Refused(f"it holds {known.architecture.name}, which Sharpline does not have")
    if known.input_channels != 3 or known.output_channels != 3:
        raise Refused(
            f"it maps {known.input_channels} channels to {known.output_channels}; "
            "Sharpline's pictures have three"
        )
    theirs = known.model.eval()
    name, parameters, weights = reader(theirs)
    ours = build(name, parameters).eval()
    ours.load_state_dict(weights)
    off = _difference(ours, theirs, facts(name, parameters).size_multiple)
    if not off <= MAX_OFF:
        raise Refused(f"its network and ours answer {off:.1e} of full scale apart")
    return name, parameters, {key: value.contiguous() for key, value in ours.state_dict().items()}


def _load_weights_only(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked:
            raise Refused(
                f"it is a pickle that wants {asked[1]} to be called, so it holds more than "
                "weights; nothing of it was run. Ask its publisher for the state dict alone, or "
                "for safetensors"
            ) from error
        # torch's own words end in the advice to open the file without the guard.
        raise Refused("its pickle is damaged, or holds other things than weights") from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        raise Refused(f"it cannot be read as weights ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


@torch.inference_mode()
def _difference(ours: nn.Module, theirs: nn.Module, multiple: int) -> float:
    side = math.ceil(PROBE_SIDE / multiple) * multiple
    lr_bchw = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    return float((ours(lr_bchw) - theirs(lr_bchw)).abs().max())


_Read = tuple[str, dict[str, Any], dict[str, Tensor]]


def _rrdb(net: Any) -> _Read:
    """spandrel keeps every generation of ESRGAN's names as the oldest one."""
    facts_of = net.hyperparameters
    shuffle = facts_of["shuffle_factor"] or 1
    if facts_of["plus"] or facts_of["scale"] != 4:
        raise Refused(
            "it is a variant of ESRGAN's generator that Sharpline does not have (ESRGAN+, or "
            f"enlarging by {facts_of['scale']} without pixel-unshuffle)"
        )
    last = facts_of["num_blocks"]
    outer = {
        "model.0": "conv_first",
        f"model.1.sub.{last}": "conv_body",
        "model.3": "conv_up1",
        "model.6": "conv_up2",
        "model.8": "conv_hr",
        "model.10": "conv_last",
    }
    weights: dict[str, Tensor] = {}
    for key, value in net.state_dict().items():
        layer, _, kind = key.rpartition(".")
        inner = re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", layer)
        name = f"body.{inner[1]}.rdb{inner[2]}.conv{inner[3]}" if inner else outer[layer]
        weights[f"{name}.{kind}"] = value
    parameters = {
        "num_in_ch": 3,
        "num_out_ch": 3,
        "scale": 4 // shuffle,
        "num_feat": facts_of["num_filters"],
        "num_block": last,
        "num_grow_ch": weights["body.0.rdb1.conv1.weight"].shape[0],
    }
    return "rrdb", parameters, weights


def _compact(net: Any) -> _Read:
    names = ("num_in_ch", "num_out_ch", "num_feat", "num_conv", "upscale")
    parameters = {name: net.hyperparameters[name] for name in names} | {"act_type": "prelu"}
    return "compact", parameters, dict(net.state_dict())


def _swinir(net: Any) -> _Read:
    if net.hyperparameters["start_unshuffle"] != 1:
        raise Refused("it is a SwinIR that starts with pixel-unshuffle, which Sharpline's does not")
    names = ("upscale", "in_chans", "img_size", "window_size", "img_range", "depths", "embed_dim")
    names += ("num_heads", "mlp_ratio", "upsampler", "resi_connection")
    parameters = {name: net.hyperparameters[name] for name in names}
    return "swinir", parameters, dict(learned(net.state_dict()))


def _nafnet(net: Any) -> _Read:
    names = ("img_channel", "width", "middle_blk_num", "enc_blk_nums", "dec_blk_nums")
    parameters = {name: net.hyperparameters[name] for name in names} | {"pool": 0}
    return "nafnet", parameters, dict(net.state_dict())


_READERS: dict[str, Callable[[Any], _Read]] = {
    "ESRGAN": _rrdb,
    "Compact": _compact,
    "SwinIR": _swinir,
    "NAFNet": _nafnet,
}


def _limit(file_bytes: int) -> None:
    """No more memory, time and output than converting a file of this size takes."""
    for kind, most in (
        (resource.RLIMIT_DATA, 3072 * MEBIBYTE + 12 * file_bytes),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 64 * MEBIBYTE + 4 * file_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (allowed, allowed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
