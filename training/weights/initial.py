"""Initial weights of a training: a bundle, a file of weights, or a registered model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from superres.common.environment import mlflow_uri, state_folder
from superres.common.errors import UsageError
from superres.model.archs import ARCHS
from superres.model.bundle import Arch, Bundle, Dataset, load_bundle
from training.bundles.provenance import InitialWeights
from training.runs.mlflow_remote import fetch_bundle
from training.weights.external import is_external, read_external

REGISTRY = "registry:"
UNSTATED = "unstated"


def resolve(spec: str) -> InitialWeights:
    """Load the weights of `--init`: a bundle folder, a file of weights, or registry:NAME[@ALIAS].

    Raises SharplineError if they are missing or cannot be verified.
    """
    if spec.startswith(REGISTRY):
        return from_bundle(_from_registry(spec.removeprefix(REGISTRY)))
    path = Path(spec)
    return _from_file(path) if is_external(path) else from_bundle(load_bundle(path))


def from_bundle(bundle: Bundle) -> InitialWeights:
    """A bundle's weights and lineage."""
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


def _from_file(path: Path) -> InitialWeights:
    """A file states no training data or licence; `models import` lets the user state them."""
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
        raise UsageError("registry: needs SHARPLINE_MLFLOW_URI, the URL of the MLflow server")
    return fetch_bundle(uri, name, alias or "champion", state_folder() / "initial")


def check_same_network(
    arch_name: str, parameters: Mapping[str, Any], initial: InitialWeights
) -> None:
    """Raise UsageError, naming each parameter that differs, unless the weights fit the network.

    Another scale is allowed: the tensors that depend on it are newly initialised.
    """
    if initial.arch.name != arch_name:
        raise UsageError(
            f"{initial.name} holds weights of the network {initial.arch.name!r}, the recipe trains "
            f"{arch_name!r}; start from weights of the same network"
        )
    different = differences(initial.arch, parameters)
    of_scale = ARCHS.get(arch_name).scale_parameters
    if conflicting := [text for key, text in different.items() if key not in of_scale]:
        raise UsageError(
            f"{initial.name} holds weights of another {arch_name!r}: " + ", ".join(conflicting)
        )


def differences(arch: Arch, parameters: Mapping[str, Any]) -> dict[str, str]:
    """The parameters that differ between weights and recipe, with a description of each;
    parameters without effect on the weights are ignored."""
    entry = ARCHS.get(arch.name)
    ours, theirs = (_plain(entry.complete(given)) for given in (parameters, arch.parameters))
    return {
        key: f"{key} ({theirs.get(key)!r} in the weights, {ours.get(key)!r} in the recipe)"
        for key in sorted(ours.keys() | theirs.keys())
        if key not in entry.weightless_parameters and ours.get(key) != theirs.get(key)
    }


def load_initial(net: nn.Module, initial: InitialWeights) -> str:
    """Load the tensors that match by name and shape into a network; return a report.

    All other tensors of the network keep their initial values.
    """
    state = net.state_dict()
    matching = {
        key: torch.from_numpy(value.copy())
        for key, value in initial.weights.items()
        if key in state and tuple(state[key].shape) == tuple(value.shape)
    }
    net.load_state_dict({**state, **matching})
    which = f"bundle {initial.bundle_id[:12]}" if initial.bundle_id else f"sha256 {initial.id[:12]}"
    report = f"{len(matching)} of {len(state)} tensors from {initial.name} ({which})"
    new = [
        f"{key} {_shape(state[key].shape)}"
        + (f" (was {_shape(initial.weights[key].shape)})" if key in initial.weights else "")
        for key in state
        if key not in matching
    ]
    unused = [key for key in initial.weights if key not in state]
    if new:
        report += "; newly initialised: " + ", ".join(new)
    if unused:
        report += "; unused: " + ", ".join(unused)
    return report


def _plain(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with tuples converted to lists, as a file holds them."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in parameters.items()
    }


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
