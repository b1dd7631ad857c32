"""Trained weights become a bundle: bounds measured, lineage stated, nothing taken on trust."""

import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from superres.archs import ArchFacts, facts
from superres.backends import Backend, BackendUnavailable, load_backend
from superres.backends.torch_backend import TorchBackend
from superres.bundle import (
    Arch,
    Bounds,
    Bundle,
    BundleInfo,
    BundleScore,
    Dataset,
    Licence,
    Spread,
    Training,
    write_bundle,
)
from superres.evaluate import Evaluation
from superres.image import Picture, read
from superres.manifest import DatasetInfo, ManifestRow, read_manifest
from superres.upscale import Upscaler
from training.card import model_card
from training.licence import commercial_use
from training.recipe import Recipe
from training.tolerance import halo_candidates, measure_precision, measure_seam, tile_buckets

DRAFT_LEAST_HALO = 16
PROBE_SIDE, PROBES = 64, 3
GOLDEN_SIDE = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where weights come from. `parent` is the bundle that the training started from."""

    recipe: Recipe
    dataset: Path
    info: DatasetInfo
    parent: Bundle | None
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How long the weights were trained."""

    steps: int
    seconds: float


def draft(origin: Origin, weights: Mapping[str, Tensor], folder: Path) -> Bundle:
    """A bundle good enough to be scored: its bounds are not measured, its golden pair is blank."""
    network = _facts(origin)
    halo = next(
        (halo for halo in halo_candidates(network) if halo >= DRAFT_LEAST_HALO),
        halo_candidates(network)[-1],
    )
    blank = Picture(rgb_hwc=np.zeros((8, 8, 3), np.uint8))
    info = _describe(origin, network, halo, Bounds(seam_levels=0.0), Effort(steps=0, seconds=0.0))
    return write_bundle(folder, info, _arrays(weights), blank, blank, "draft\n")


def publish(
    origin: Origin,
    candidate: Bundle,
    effort: Effort,
    evaluation: Evaluation | None,
    mlflow_run: str | None,
    folder: Path,
) -> Bundle:
    """Measure a draft's bounds on real pictures and write the bundle that it becomes."""
    network = _facts(origin)
    pictures = _probes(origin.dataset)
    exact = TorchBackend(candidate, device="cpu", precision="fp32")
    seam = measure_seam(exact, network, pictures)
    bounds = Bounds(seam_levels=seam.levels)
    info = _describe(origin, network, seam.halo, bounds, effort)
    reduced = list(_reduced_backends(candidate))
    levels = measure_precision(exact, reduced, info.geometry, pictures)
    info = info.model_copy(
        update={
            "bounds": Bounds(seam_levels=seam.levels, precision_levels={"bf16": levels}),
            "scores": _scores(evaluation),
            "mlflow_run": mlflow_run,
        }
    )
    upscaler = Upscaler(Bundle(root=candidate.root, info=info, id=""), exact)
    golden_input = Picture(rgb_hwc=_middle(pictures[0], GOLDEN_SIDE))
    golden_output = upscaler.whole(golden_input)
    for backend in (exact, *reduced):
        backend.close()
    return write_bundle(
        folder,
        info,
        candidate.weights(),
        golden_input,
        golden_output,
        model_card(info, origin.info),
    )


def git_commit() -> str | None:
    """The commit that this code was checked out at, with "+changes"; None outside a checkout."""
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


def _describe(
    origin: Origin,
    network: ArchFacts,
    halo: int,
    bounds: Bounds,
    effort: Effort,
) -> BundleInfo:
    recipe = origin.recipe
    parent = origin.parent.info if origin.parent else None
    datasets = [*(parent.training.datasets if parent else ()), *_datasets(origin)]
    lineage = sorted({dataset.licence for dataset in datasets})
    return BundleInfo(
        name=recipe.name,
        task=recipe.task,
        scale=recipe.scale,
        arch=Arch(name=recipe.arch.name, parameters=dict(recipe.arch.parameters)),
        halo=halo,
        size_multiple=network.size_multiple,
        window=network.window,
        tile_buckets=tile_buckets(network, halo),
        bounds=bounds,
        training=Training(
            datasets=tuple(dict.fromkeys(datasets)),
            degradation=origin.info.degradation,
            reference={name: Spread(**spread) for name, spread in origin.info.reference.items()},
            steps=effort.steps,
            seconds=round(effort.seconds, 1),
            device=origin.device,
            parent=origin.parent.id if origin.parent else None,
        ),
        scores=(),
        licence=Licence(
            weights="Apache-2.0, within what the training pictures' licences allow",
            lineage=tuple(lineage),
            commercial_use=commercial_use(lineage),
        ),
        git_commit=git_commit(),
        mlflow_run=None,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _datasets(origin: Origin) -> list[Dataset]:
    """One entry per source and licence that trained the weights; held-out pictures did not."""
    rows = (row for row in read_manifest(origin.dataset) if row.split == "train")
    kinds = dict.fromkeys((row.source, row.licence) for row in rows)
    return [
        Dataset(id=origin.info.id, source=source, licence=licence)
        for source, licence in sorted(kinds)
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
    """Every way in which this machine runs bf16."""
    for name in ("torch", "openvino"):
        try:
            yield load_backend(candidate, backend=name, device="cpu", precision="bf16")
        except BackendUnavailable:
            continue


def _probes(dataset: Path) -> list[npt.NDArray[np.uint8]]:
    """The middles of some low-resolution pictures: held-out ones where there are any."""
    rows: list[ManifestRow] = sorted(read_manifest(dataset), key=lambda row: row.split == "train")
    return [_middle(read(dataset / row.lr_path).rgb_hwc, PROBE_SIDE) for row in rows[:PROBES]]


def _middle(hwc_u8: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    height, width = hwc_u8.shape[:2]
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    return np.ascontiguousarray(hwc_u8[top : top + side, left : left + side])


def _arrays(weights: Mapping[str, Tensor]) -> dict[str, npt.NDArray[np.float32]]:
    return {key: value.numpy() for key, value in weights.items()}


def _facts(origin: Origin) -> ArchFacts:
    return facts(origin.recipe.arch.name, origin.recipe.arch.parameters)
