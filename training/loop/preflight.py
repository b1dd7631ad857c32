"""What would fail after hours is refused before the first step, with the key and the remedy."""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from superres.common.errors import SharplineError, UsageError
from superres.dataset.manifest import DatasetInfo
from superres.model.archs import ArchFacts, UnknownArch, facts
from training.bundles.provenance import InitialWeights
from training.loop.distributed import DistributedContext
from training.loop.features import weight_file
from training.recipe import PerceptualLoss, Recipe, Stage
from training.weights.basicsr_bridge import discriminator_sides
from training.weights.initial import refuse_other_network

MLFLOW_ANSWERS_WITHIN_SECONDS = 3.0
CLOSED = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)


def refuse_impossible(
    recipe: Recipe,
    stage: Stage,
    info: DatasetInfo,
    data: Path,
    parent: InitialWeights | None,
    distributed: DistributedContext,
) -> None:
    """Raise UsageError where recipe, dataset, starting weights and processes do not fit."""
    _refuse_other_data(recipe, stage, info, data)
    with of_recipe(recipe):
        network = facts(recipe.arch.name, recipe.arch.parameters)
    if network.scale != recipe.scale:
        raise UsageError(
            f"recipe {recipe.name}: scale is {recipe.scale}, but its network enlarges "
            f"by {network.scale}"
        )
    _refuse_sizes(recipe, stage, network)
    for loss in recipe.losses:
        if isinstance(loss, PerceptualLoss):
            weight_file(loss)
    distributed.part(stage.batch)
    if parent is not None:
        refuse_other_network(recipe.arch.name, recipe.arch.parameters, parent)


@contextmanager
def of_recipe(recipe: Recipe) -> Iterator[None]:
    """A network that cannot be is a fault of the recipe's key `arch`: raise UsageError for it."""
    try:
        yield
    except UnknownArch as error:
        raise UsageError(f"recipe {recipe.name}: arch: {error}") from error


def refuse_closed_mlflow(uri: str) -> None:
    """Raise UsageError for an address that is none and for a server that will not have us.

    A server that is away is no reason: notes are kept and sent later.
    """
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(
            f"SHARPLINE_MLFLOW_URI is {uri!r}; give an address such as http://127.0.0.1:5000, or "
            "unset it to train without MLflow"
        )
    try:
        answer = httpx.get(uri.rstrip("/") + "/health", timeout=MLFLOW_ANSWERS_WITHIN_SECONDS)
    except httpx.HTTPError:
        return
    if answer.status_code in CLOSED:
        raise SharplineError(
            f"MLflow at {uri} refuses us ({answer.status_code} {answer.reason_phrase}): set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, let the server allow this host "
            "(--allowed-hosts), or unset SHARPLINE_MLFLOW_URI to train without it"
        )


def _refuse_other_data(recipe: Recipe, stage: Stage, info: DatasetInfo, data: Path) -> None:
    if info.scale != recipe.scale:
        raise UsageError(
            f"{data} is a dataset for scale {info.scale}, recipe {recipe.name} needs "
            f"{recipe.scale}; build one with --scale {recipe.scale}"
        )
    if stage.early_stop is not None and not info.splits.get("validation"):
        raise UsageError(
            f"recipe {recipe.name}: early_stop goes by pictures held out, and {data} has none; "
            "build the dataset with --split-every, or set early_stop to null"
        )


def _refuse_sizes(recipe: Recipe, stage: Stage, network: ArchFacts) -> None:
    grid = network.window or network.size_multiple
    for patch in stage.patches:
        if patch.side % grid:
            raise UsageError(
                f"recipe {recipe.name}: patches: side {patch.side} must be a multiple of {grid}"
            )
        if recipe.discriminator is None:
            continue
        asked = recipe.discriminator
        only, multiple = discriminator_sides(asked.name, asked.parameters)
        hr_side = patch.side * recipe.scale
        if hr_side % multiple or only not in (None, hr_side):
            needs = f"sides of {only}" if only else f"sides that are multiples of {multiple}"
            raise UsageError(
                f"recipe {recipe.name}: discriminator: {asked.name} needs {needs} pixels, and "
                f"patches: side {patch.side} at x{recipe.scale} gives {hr_side}"
            )
