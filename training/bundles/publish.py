"""Publishing trained weights as a bundle, with measured bounds and lineage."""

import json
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from superres.dataset.manifest import ManifestRow, read_manifest
from superres.evaluation.evaluate import Evaluation
from superres.image.codecs import Picture, read
from superres.image.crop import center_crop
from superres.model.archs import ARCHS, facts
from superres.model.backends import Backend, BackendUnavailable, load_backend
from superres.model.backends.torch_backend import TorchBackend
from superres.model.bundle import (
    Arch,
    Bounds,
    Bundle,
    BundleInfo,
    BundleScore,
    Dataset,
    FeatureStats,
    Licence,
    Training,
    write_bundle,
)
from superres.model.upscaler import Upscaler
from training.bundles.bounds import (
    CORE,
    halo_candidates,
    measure_precision,
    measure_seam,
    tile_buckets,
)
from training.bundles.card import model_card
from training.bundles.licence import commercial_use
from training.bundles.provenance import InitialWeights, Provenance, TrainingCost

OWN_LICENCE = "Apache-2.0, within what the training pictures' licences allow"
DRAFT_MIN_HALO = 16
PROBE_SIDE, PROBES = 64, 3
# A smoke only shows that a recipe runs: one picture, higher than a tile's core and no wider, so
# that two tiles share one seam. Probes dominate the time to publish a deep network.
SMOKE_PROBE_HEIGHT = 40
GOLDEN_SIDE = 48


def draft(provenance: Provenance, weights: Mapping[str, Tensor], folder: Path) -> Bundle:
    """A bundle for validation only: bounds not measured, golden pair blank."""
    arrays = {key: value.numpy() for key, value in weights.items()}
    return write_draft(_bundle_info(provenance, TrainingCost(steps=0, seconds=0.0)), arrays, folder)


def publish(
    provenance: Provenance,
    candidate: Bundle,
    cost: TrainingCost,
    evaluation: Evaluation | None,
    mlflow_run: str | None,
    folder: Path,
) -> Bundle:
    """Measure a draft's bounds on real pictures and write the final bundle."""
    info = _bundle_info(provenance, cost).model_copy(
        update={"scores": _scores(evaluation), "mlflow_run": mlflow_run}
    )
    return measure_and_write(
        info,
        candidate,
        _probes(provenance),
        lambda info: model_card(info, provenance.info),
        folder,
    )


def draft_info(
    *,
    name: str,
    task: str,
    arch: Arch,
    training: Training,
    licence: Licence,
) -> BundleInfo:
    """The bundle.json of a draft, before measurements: a default halo and no bounds."""
    network = facts(arch.name, arch.parameters)
    halo = next(
        (halo for halo in halo_candidates(network) if halo >= DRAFT_MIN_HALO),
        halo_candidates(network)[-1],
    )
    return BundleInfo(
        name=name,
        task=task,
        scale=network.scale,
        arch=arch,
        halo=halo,
        size_multiple=network.size_multiple,
        window=network.window,
        tile_buckets=tile_buckets(network, halo),
        bounds=Bounds(seam_levels=0.0),
        training=training,
        scores=(),
        licence=licence,
        git_commit=git_commit(),
        mlflow_run=None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def write_draft(info: BundleInfo, weights: Mapping[str, npt.NDArray[Any]], folder: Path) -> Bundle:
    """Write a draft bundle, with a blank golden pair."""
    lr = np.zeros((8, 8, 3), np.uint8)
    hr = np.zeros((8 * info.scale, 8 * info.scale, 3), np.uint8)
    return write_bundle(folder, info, weights, Picture(rgb_hwc=lr), Picture(rgb_hwc=hr), "draft\n")


def measure_and_write(
    info: BundleInfo,
    candidate: Bundle,
    pictures: Sequence[npt.NDArray[np.uint8]],
    card: Callable[[BundleInfo], str],
    folder: Path,
) -> Bundle:
    """Measure halo and bounds of a draft on `pictures` and write the final bundle.

    `pictures` are LR pictures (H, W, 3); the centre of the first is the golden input.
    """
    network = facts(info.arch.name, info.arch.parameters)
    exact = TorchBackend(candidate, device="cpu", precision="fp32")
    seam = measure_seam(exact, network, pictures)
    info = info.model_copy(
        update={
            "halo": seam.halo,
            "tile_buckets": tile_buckets(network, seam.halo),
            "bounds": Bounds(seam_levels=seam.levels),
        }
    )
    reduced = list(_reduced_backends(candidate))
    levels = measure_precision(seam.wholes_bhwc, reduced, info.geometry, pictures)
    bounds = Bounds(
        seam_levels=seam.levels, precision_levels={"bf16": levels}, pictures=len(pictures)
    )
    info = info.model_copy(update={"bounds": bounds})
    upscaler = Upscaler(Bundle(root=candidate.root, info=info, id=""), exact)
    golden_input = Picture(rgb_hwc=center_crop(pictures[0], GOLDEN_SIDE))
    golden_output = upscaler.whole(golden_input)
    for backend in (exact, *reduced):
        backend.close()
    weights = candidate.weights()
    return write_bundle(folder, info, weights, golden_input, golden_output, card(info))


def git_commit() -> str | None:
    """The commit of this checkout, with "+changes" if dirty; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+changes", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return described.stdout.strip() or None


def _bundle_info(provenance: Provenance, cost: TrainingCost) -> BundleInfo:
    recipe, parent = provenance.recipe, provenance.parent
    datasets = [*(parent.datasets if parent else ()), *_datasets(provenance)]
    inherited = parent.licences if parent else ()
    lineage = sorted({*inherited, *(dataset.licence for dataset in datasets)})
    return draft_info(
        name=recipe.name,
        task=recipe.task,
        arch=complete_arch(recipe.arch.name, recipe.arch.parameters),
        training=Training(
            datasets=tuple(dict.fromkeys(datasets)),
            degradation=_degradation(provenance),
            reference={
                name: FeatureStats(**spread) for name, spread in provenance.info.reference.items()
            },
            steps=cost.steps,
            seconds=round(cost.seconds, 1),
            device=provenance.device,
            parent=parent.bundle_id if parent else None,
            start=provenance.start,
            losses=tuple(loss.name for loss in recipe.losses),
        ),
        licence=Licence(
            weights=_weights_licence(parent),
            lineage=tuple(lineage),
            commercial_use=commercial_use(lineage),
        ),
    )


def complete_arch(name: str, parameters: Mapping[str, Any]) -> Arch:
    """The network with all its parameters, so that later defaults do not change it."""
    values = ARCHS.get(name).complete(parameters)
    return Arch(name=name, parameters=json.loads(json.dumps(values)), package=ARCHS.package(name))


def _degradation(provenance: Provenance) -> str:
    """The degradation of the inputs: the recipe's online degradation, else the dataset's."""
    mix = provenance.recipe.mix()
    return provenance.info.degradation if mix is None else mix.text


def _weights_licence(parent: InitialWeights | None) -> str:
    parent_licence = parent.weights_licence if parent else OWN_LICENCE
    if parent_licence is None:
        return f"{OWN_LICENCE}; started from weights under terms that were not stated"
    return (
        parent_licence
        if parent_licence.startswith(OWN_LICENCE)
        else f"{OWN_LICENCE}; started from: {parent_licence}"
    )


def _datasets(provenance: Provenance) -> list[Dataset]:
    """One entry per source and licence of the training split."""
    rows = (row for row in read_manifest(provenance.dataset) if row.split == "train")
    sources = dict.fromkeys((row.source, row.licence) for row in rows)
    return [
        Dataset(id=provenance.info.id, source=source, licence=licence)
        for source, licence in sorted(sources)
    ]


def _scores(evaluation: Evaluation | None) -> tuple[BundleScore, ...]:
    if evaluation is None:
        return ()
    return (
        BundleScore(
            protocol=evaluation.protocol.as_dict(),
            psnr=round(evaluation.psnr, 4),
            ssim=round(evaluation.ssim, 6),
            bicubic_psnr=round(evaluation.bicubic_psnr, 4),
            bicubic_ssim=round(evaluation.bicubic_ssim, 6),
        ),
    )


def _reduced_backends(candidate: Bundle) -> Iterable[Backend]:
    """The backends of this machine that run bf16."""
    for name in ("torch", "openvino"):
        try:
            yield load_backend(candidate, backend=name, device="cpu", precision="bf16")
        except BackendUnavailable:
            continue


def _probes(provenance: Provenance) -> list[npt.NDArray[np.uint8]]:
    """Centre crops of some LR pictures, held-out ones first."""
    dataset = provenance.dataset
    rows: list[ManifestRow] = sorted(read_manifest(dataset), key=lambda row: row.split == "train")
    if provenance.profile == "smoke":
        probe_hwc = center_crop(read(dataset / rows[0].lr_path).rgb_hwc, SMOKE_PROBE_HEIGHT)
        return [np.ascontiguousarray(probe_hwc[:, :CORE])]
    return [center_crop(read(dataset / row.lr_path).rgb_hwc, PROBE_SIDE) for row in rows[:PROBES]]
