"""Bundles from external weights, with measured bounds, licence and lineage."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from superres.common.console import say
from superres.common.errors import UsageError
from superres.image.codecs import read
from superres.image.crop import center_crop
from superres.image.resize import imresize
from superres.model.archs import facts
from superres.model.bundle import INFO_FILE, Bundle, Dataset, Licence, Training
from training.bundles.card import NOT_STATED, model_card
from training.bundles.licence import commercial_use
from training.bundles.publish import (
    PROBE_SIDE,
    PROBES,
    complete_arch,
    draft_info,
    measure_and_write,
    write_draft,
)
from training.data.sources.sample import sample_pictures
from training.recipe import Recipe
from training.weights.external import ExternalWeights
from training.weights.initial import UNSTATED, differences

ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsProvenance:
    """The provenance of external weights, as stated by the user.

    `licence` is that of the weights; `trained_on` lists source and licence of the training
    pictures, empty if unknown. `adversarial`: trained with a discriminator.
    """

    name: str
    licence: str
    url: str | None = None
    trained_on: tuple[tuple[str, str], ...] = ()
    adversarial: bool = False


def import_weights(
    external: ExternalWeights, provenance: WeightsProvenance, out: Path, recipe: Recipe | None
) -> Bundle:
    """Write these weights as the bundle OUT/NAME; they must match the network of `recipe`, if any.

    Halo and bounds are measured on the embedded sample's pictures. Raises UsageError if the bundle
    already exists, or if the weights do not match the recipe.
    """
    folder = out / provenance.name
    if (folder / INFO_FILE).exists():
        raise UsageError(f"{folder} already exists; remove it, or use another --name or --out")
    if recipe is not None:
        _check_network(external, recipe)
    scale = facts(external.arch.name, external.arch.parameters).scale
    info = draft_info(
        name=provenance.name,
        task="super-resolution" if scale > 1 else "restoration",
        arch=complete_arch(external.arch.name, external.arch.parameters),
        training=_training(external, provenance),
        licence=_licence(provenance),
    )
    say(f"{provenance.name}: measuring halo and bounds; a large network takes minutes on a CPU")
    with tempfile.TemporaryDirectory(prefix="sharpline-import-") as scratch:
        candidate = write_draft(info, external.weights, Path(scratch) / "draft")
        return measure_and_write(
            info, candidate, probes(scale), lambda info: model_card(info, None), folder
        )


def probes(scale: int) -> Sequence[npt.NDArray[np.uint8]]:
    """LR centre crops of the sample's held-out pictures, (H, W, 3)."""
    held_out = [picture for picture in sample_pictures() if picture.split == "validation"]
    pictures = []
    for picture in held_out[:PROBES]:
        hr_hwc = center_crop(read(picture.path).rgb_hwc, PROBE_SIDE * scale)
        pictures.append(center_crop(imresize(hr_hwc, scale=1 / scale), PROBE_SIDE))
    return pictures


def _check_network(external: ExternalWeights, recipe: Recipe) -> None:
    if external.arch.name != recipe.arch.name:
        raise UsageError(
            f"{external.path} holds the network {external.arch.name!r}, recipe {recipe.name} has "
            f"{recipe.arch.name!r}"
        )
    if different := differences(external.arch, recipe.arch.parameters):
        raise UsageError(
            f"{external.path} does not match the network of recipe {recipe.name}: "
            + ", ".join(different.values())
        )


def _training(external: ExternalWeights, provenance: WeightsProvenance) -> Training:
    sources = provenance.trained_on or ((f"training data of {provenance.name}", UNSTATED),)
    where = f", published at {provenance.url}" if provenance.url else ""
    return Training(
        datasets=tuple(
            Dataset(id=external.sha256[:16], source=source, licence=licence)
            for source, licence in sources
        ),
        degradation=NOT_STATED,
        reference={},
        steps=0,
        seconds=0.0,
        device=ELSEWHERE,
        start=f"imported from {external.path.name} (sha256 {external.sha256}){where}",
        losses=("gan",) if provenance.adversarial else (),
    )


def _licence(provenance: WeightsProvenance) -> Licence:
    pictures = [licence for _, licence in provenance.trained_on] or [UNSTATED]
    lineage = tuple(sorted({provenance.licence, *pictures}))
    return Licence(
        weights=provenance.licence, lineage=lineage, commercial_use=commercial_use(lineage)
    )
