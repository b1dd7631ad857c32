"""Checks before the first step; errors name the recipe key and the remedy."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import torch
from torch import nn

from superres.common.errors import SharplineError, UsageError
from superres.dataset.manifest import DatasetInfo
from superres.model.archs import ARCHS, ArchFacts, UnknownArch, facts
from training.basicsr_bridge import discriminator_sides
from training.bundles.provenance import InitialWeights
from training.loop.distributed import DistributedContext
from training.losses import LOSSES
from training.recipe import Recipe, Stage
from training.weights.initial import check_same_network

MLFLOW_TIMEOUT_SECONDS = 3.0
PROBE_SIDE = 16
MAX_DIFFERENCE = 1e-3  # of full scale; float summation order changes it by far less
DENIED_STATUSES = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def check_network(recipe: Recipe) -> ArchFacts:
    """The facts of the recipe's network. Raises UsageError if it is unknown or its parameters are
    invalid, or if it has another scale than the recipe."""
    with reraise_arch_errors(recipe):
        network = facts(recipe.arch.name, recipe.arch.parameters)
    if network.scale != recipe.scale:
        raise UsageError(
            f"recipe {recipe.name}: scale is {recipe.scale}, but its network enlarges "
            f"by {network.scale}"
        )
    return network


def check_training_plan(
    recipe: Recipe,
    stage: Stage,
    info: DatasetInfo,
    data: Path,
    parent: InitialWeights | None,
    distributed: DistributedContext,
) -> None:
    """Raise UsageError if recipe, dataset, initial weights and world size do not fit together."""
    _check_dataset(recipe, stage, info, data)
    _check_patches(recipe, stage, check_network(recipe))
    for loss in recipe.losses:
        with LOSSES.failures_of(loss.name):
            LOSSES.get(loss.name).check(loss)
    distributed.batch_slice(stage.batch)
    if parent is not None:
        check_same_network(recipe.arch.name, recipe.arch.parameters, parent)


@torch.inference_mode()
def try_network(net: nn.Module, recipe: Recipe) -> None:
    """Run another package's network once, and its merged form, on a small picture.

    Raises PluginFailed if the output has another size than its facts say, or the merged form has
    another output: after the training it would be too late.
    """
    name = recipe.arch.name
    entry = ARCHS.get(name)
    if name in ARCHS.built_in:
        return
    with ARCHS.failures_of(name):
        network = entry.facts_for(recipe.arch.parameters)
        grid = network.grid
        side = -(-PROBE_SIDE // grid) * grid
        lr_bchw = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        plain = copy.deepcopy(net).eval()
        output_bchw = plain(lr_bchw)
        expected = (1, 3, side * network.scale, side * network.scale)
        if tuple(output_bchw.shape) != expected:
            raise ValueError(
                f"its output for a picture of {side}x{side} has the shape "
                f"{tuple(output_bchw.shape)}, not {expected}"
            )
        difference = (entry.reparameterise(plain)(lr_bchw) - output_bchw).abs().max()
        if not difference <= MAX_DIFFERENCE:
            raise ValueError(f"its merged form differs by {float(difference):.1e} of full scale")


@contextmanager
def reraise_arch_errors(recipe: Recipe) -> Iterator[None]:
    """Convert UnknownArch into a UsageError that names the recipe and its key `arch`."""
    try:
        yield
    except UnknownArch as error:
        raise UsageError(f"recipe {recipe.name}: arch: {error}") from error


def check_mlflow_access(uri: str) -> None:
    """Raise UsageError for an invalid URL, SharplineError if the server denies access.

    An unreachable server is accepted: records are spooled and sent later.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(
            f"SHARPLINE_MLFLOW_URI is {uri!r}; set a URL such as http://127.0.0.1:5000, or unset "
            "it to train without MLflow"
        )
    try:
        response = httpx.get(uri.rstrip("/") + "/health", timeout=MLFLOW_TIMEOUT_SECONDS)
    except httpx.HTTPError:
        return
    if response.status_code in DENIED_STATUSES:
        raise SharplineError(
            f"MLflow at {uri} denies access ({response.status_code} {response.reason_phrase}): set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, allow this host on the server "
            "(--allowed-hosts), or unset SHARPLINE_MLFLOW_URI to train without it"
        )


def _check_dataset(recipe: Recipe, stage: Stage, info: DatasetInfo, data: Path) -> None:
    if info.scale != recipe.scale:
        raise UsageError(
            f"{data} is a dataset for scale {info.scale}, recipe {recipe.name} needs "
            f"{recipe.scale}; build one with --scale {recipe.scale}"
        )
    if stage.early_stop is not None and not info.splits.get("validation"):
        raise UsageError(
            f"recipe {recipe.name}: early_stop needs held-out pictures, and {data} has none; "
            "build the dataset with --split-every, or set early_stop to null"
        )


def _check_patches(recipe: Recipe, stage: Stage, network: ArchFacts) -> None:
    grid = network.window or network.size_multiple
    for patch in stage.patches:
        if patch.side % grid:
            raise UsageError(
                f"recipe {recipe.name}: patches: side {patch.side} must be a multiple of {grid}"
            )
        if recipe.discriminator is None:
            continue
        discriminator = recipe.discriminator
        required_side, multiple = discriminator_sides(discriminator.name, discriminator.parameters)
        hr_side = patch.side * recipe.scale
        if hr_side % multiple or required_side not in (None, hr_side):
            needs = (
                f"sides of {required_side}"
                if required_side
                else f"sides that are multiples of {multiple}"
            )
            raise UsageError(
                f"recipe {recipe.name}: discriminator: {discriminator.name} needs {needs} pixels, "
                f"but patches: side {patch.side} at x{recipe.scale} gives {hr_side}"
            )
