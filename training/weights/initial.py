"""What a training starts from: a bundle, a file of weights, or a model of the registry."""

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from superres.common.environment import mlflow_uri, state_folder
from superres.common.errors import UsageError
from superres.model.archs import network_class
from superres.model.bundle import Arch, Bundle, Dataset, load_bundle
from training.bundles.provenance import InitialWeights
from training.runs.mlflow_remote import fetch_bundle
from training.weights.external import is_external, read_external

REGISTRY = "registry:"
UNSTATED = "unstated"
# Parameters that only say how much is enlarged, and how: all before it can be taken over.
OF_THE_SCALE = {"scale", "upscale", "upsampler"}
# Parameters that no weight depends on.
WEIGHTLESS = {"drop_path_rate", "img_size", "pool"}


def resolve(spec: str) -> InitialWeights:
    """The weights that `--init` names: a bundle folder, a file of weights, registry:NAME[@ALIAS].

    Raises SharplineError where there are none, or none that can be trusted.
    """
    if spec.startswith(REGISTRY):
        return of_bundle(_from_registry(spec.removeprefix(REGISTRY)))
    path = Path(spec)
    return _of_file(path) if is_external(path) else of_bundle(load_bundle(path))


def of_bundle(bundle: Bundle) -> InitialWeights:
    """A bundle's weights, with its whole lineage."""
    info = bundle.info
    return InitialWeights(
        name=info.name,
        id=bundle.id,
        bundle_id=bundle.id,
        arch=info.arch,
        weights=bundle.weights(),
        datasets=info.training.datasets,
        licences=info.licence.lineage,
        weights_licence=info.licence.weights,
    )


def _of_file(path: Path) -> InitialWeights:
    """A file says nothing of its pictures or terms; `models import` is where they are stated."""
    external = read_external(path)
    return InitialWeights(
        name=path.name,
        id=external.sha256,
        bundle_id=None,
        arch=external.arch,
        weights=external.weights,
        datasets=(Dataset(id=external.sha256[:16], source=path.name, licence=UNSTATED),),
        licences=(UNSTATED,),
        weights_licence=None,
    )


def _from_registry(spec: str) -> Bundle:
    name, _, alias = spec.partition("@")
    if not re.fullmatch(r"[a-z0-9][a-z0-9_.-]*", name):
        raise UsageError(f"registry:{spec}: write registry:NAME or registry:NAME@ALIAS")
    uri = mlflow_uri()
    if uri is None:
        raise UsageError("registry: needs SHARPLINE_MLFLOW_URI, the address of the MLflow server")
    return fetch_bundle(uri, name, alias or "champion", state_folder() / "initial")


def refuse_other_network(
    arch_name: str, parameters: Mapping[str, Any], initial: InitialWeights
) -> None:
    """Raise UsageError, naming each parameter that differs, unless the weights can be taken over.

    Another scale is no hindrance: what depends on it starts anew.
    """
    if initial.arch.name != arch_name:
        raise UsageError(
            f"{initial.name} holds weights of the network {initial.arch.name!r}, the recipe trains "
            f"{arch_name!r}; start from weights of the same network"
        )
    different = differences(initial.arch, parameters)
    if hindering := [spec for key, spec in different.items() if key not in OF_THE_SCALE]:
        raise UsageError(
            f"{initial.name} holds weights of another {arch_name!r}: " + ", ".join(hindering)
        )


def differences(there: Arch, parameters: Mapping[str, Any]) -> dict[str, str]:
    """Parameters in which weights of a network and a recipe of the same one differ, by name and in
    words; those that no weight depends on are left out."""
    ours, theirs = complete(there.name, parameters), complete(there.name, there.parameters)
    return {
        key: f"{key} ({theirs.get(key)!r} there, {ours.get(key)!r} in the recipe)"
        for key in sorted(ours.keys() | theirs.keys())
        if key not in WEIGHTLESS and ours.get(key) != theirs.get(key)
    }


def load_initial(net: nn.Module, initial: InitialWeights) -> str:
    """Load into a freshly built network what fits it, and say exactly what was done.

    Tensors of another shape, or that only one side has, stay as they were built.
    """
    own = net.state_dict()
    fitting = {
        key: torch.from_numpy(value.copy())
        for key, value in initial.weights.items()
        if key in own and tuple(own[key].shape) == tuple(value.shape)
    }
    net.load_state_dict({**own, **fitting})
    which = f"bundle {initial.bundle_id[:12]}" if initial.bundle_id else f"sha256 {initial.id[:12]}"
    report = f"{len(fitting)} of {len(own)} tensors from {initial.name} ({which})"
    anew = [
        f"{key} {_shape(own[key].shape)}"
        + (f" (there {_shape(initial.weights[key].shape)})" if key in initial.weights else "")
        for key in own
        if key not in fitting
    ]
    unused = [key for key in initial.weights if key not in own]
    if anew:
        report += "; initialised anew: " + ", ".join(anew)
    if unused:
        report += "; left behind: " + ", ".join(unused)
    return report


def complete(arch_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the network's own defaults filled in, lists and tuples alike."""
    signature = inspect.signature(network_class(arch_name))
    defaults = {name: parameter.default for name, parameter in signature.parameters.items()}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in {**defaults, **parameters}.items()
    }


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
